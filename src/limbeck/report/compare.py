"""Two measurements of the same prompts: what the figures did, which prompts flipped, and what got clearly worse."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from limbeck.errors import InputError
from limbeck.judges.outcomes import Group
from limbeck.records import Scorecard, Trial
from limbeck.report.exam import OUTCOMES, Exam, Examples, Flip, Paired, flipped, paired, walk, worsened
from limbeck.report.headline import DROP, HEADLINE, NOT_MEASURED, Headline, as_rich, by_harm, chance, figures
from limbeck.report.scorecard import read_scorecards
from limbeck.report.trials import read_attacked, read_trials
from limbeck.report.verdict import SIGNIFICANCE
from limbeck.stats import adjusted, least_p_value

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

BEFORE, AFTER = "before", "after"
SHOWN_PROMPTS = 5
# So that a prompt stays on one line of a console of 80 columns.
SHOWN_CHARACTERS = 76
Outcome = Literal["worse", "better", "unclear", "unchanged", "undecided", "not measured"]


class Side(NamedTuple):
    """One of the two: where it was read, its figures, and its trials where there are any."""

    path: Path
    model: str
    card: Scorecard
    trials: tuple[Trial, ...]

    @property
    def prompts(self) -> set[str]:
        """The ids of the prompts that were asked."""
        return {trial.prompt.id for trial in self.trials}

    @property
    def attacks(self) -> set[str]:
        """The attacks that were tried."""
        return {trial.attack for trial in self.trials if trial.attack is not None}

    @property
    def judges(self) -> set[str]:
        """The judges that graded, with their versions."""
        return {f"{said.judge} {said.version}" for trial in self.trials for said in trial.verdicts}


class Tested(NamedTuple):
    """The flips in one group of prompts, with the p value as it is for one of `tests` tests."""

    pairs: Paired
    p_adjusted: float
    tests: int

    @property
    def outcome(self) -> Outcome:
        """What the test says; undecided where it could say nothing else, were every prompt to flip the same way."""
        flips = self.pairs.flips
        if not self.pairs.n:
            return NOT_MEASURED
        if self.p_adjusted < SIGNIFICANCE:
            return "worse" if flips.worse > flips.better else "better"
        if self.tests * least_p_value(self.pairs.n) >= SIGNIFICANCE:
            return "undecided"
        return "unclear" if flips.worse or flips.better else "unchanged"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Figures of both sides, and where both have trials what flipped; else `untested` says why nothing was tested."""

    before: Side
    after: Side
    tested: tuple[Tested, ...] = ()
    lost: tuple[Examples, ...] = ()
    flips: tuple[Flip, ...] = ()
    unmeasured: tuple[str, ...] = ()
    untested: str = ""

    @property
    def figures(self) -> Headline:
        """The figures that decide, then those of each harm."""
        cards = (self.before.card, self.after.card)
        of_harms = [
            replace(column, title=f"{column.title}: {harm}")
            for harm, table in by_harm(cards).items()
            for column in table.columns
        ]
        return figures(cards, [*(column for column in HEADLINE if column is not DROP and not column.worst), *of_harms])

    @property
    def complaint(self) -> str:
        """Why it does not pass as a gate: what got clearly worse, or could not be tested; empty where it passes."""
        worse = [_lost(one.pairs) for one in self.tested if one.outcome == "worse"]
        if worse:
            return f"clearly worse: {'; '.join(worse)}"
        if self.unmeasured:
            return f"measured before and not after: {', '.join(self.unmeasured)}"
        if not self.untested and all(one.outcome in ("undecided", NOT_MEASURED) for one in self.tested):
            most = max(one.pairs.n for one in self.tested)
            return f"nothing is decided: {most} prompts of a kind, scored on both sides, are too few to show a change"
        return self.untested


def compare(before: Path, after: Path) -> Comparison:
    """What changed between two folders of `limbeck evaluate`, or between two scorecards.

    Flips are tested by the exact McNemar test, adjusted over the groups (Benjamini-Hochberg). Raises InputError where
    what is compared was not asked the same prompts or not graded by the same judges.
    """
    first, second = _read(before, BEFORE), _read(after, AFTER)
    for side in (first, second):
        if not side.trials:
            return Comparison(
                before=first,
                after=second,
                untested=f"nothing was tested: {side.path} has no trials; name two folders of `limbeck evaluate`",
            )
    if not first.prompts & second.prompts:
        raise InputError(f"{before} and {after} share no prompt; give `limbeck evaluate` the same --prompts for both")
    if first.judges and second.judges and first.judges != second.judges:
        raise InputError(
            f"{after} was graded by {_listed(second.judges)}, {before} by {_listed(first.judges)}, and a flip could be "
            "the judge's; run `limbeck evaluate` for both with this version"
        )
    # Of attacks those alone that both withstood or not.
    alike = {None, *first.attacks} & {None, *second.attacks}
    exam = walk((one for one in (*first.trials, *second.trials) if one.attack in alike), shown=(BEFORE, AFTER))
    groups = [group for group in OUTCOMES if group != "attacked" or exam.groups[group]]
    pairs = [paired(exam, group, BEFORE, AFTER) for group in groups]
    tests = [one for one in pairs if one.n]
    # Where nothing flipped, no outcome would be less extreme: p is 1.
    p_values = adjusted([1.0 if one.flips.p_value is None else one.flips.p_value for one in tests])
    p_of = dict(zip((one.group for one in tests), p_values, strict=True))
    return Comparison(
        before=first,
        after=second,
        tested=tuple(Tested(one, p_of.get(one.group, 1.0), len(tests)) for one in pairs),
        unmeasured=tuple(one.title for one in pairs if not one.n and _was_scored(exam, one.group)),
        lost=tuple(worsened(exam, group, BEFORE, AFTER, at_most=SHOWN_PROMPTS) for group in groups),
        flips=tuple(flipped(exam, BEFORE, AFTER)),
    )


def _was_scored(exam: Exam, group: Group) -> bool:
    """Whether the first of the two has any outcome in the group."""
    return any(said.good is not None for said in exam.groups[group].get(BEFORE, {}).values())


def as_lines(found: Comparison) -> Iterator[RenderableType]:
    """The comparison for a console: both names, the figures, the flips, and some prompts that were lost."""
    from rich.text import Text

    for name, side in ((BEFORE, found.before), (AFTER, found.after)):
        yield Text(f"{name:7} {side.path} ({side.model})")
    yield as_rich(found.figures)
    if found.untested:
        yield Text(found.untested)
        return
    yield _flip_table(found)
    for kind in found.lost:
        if kind.total:
            shown = f", {len(kind.shown)} shown" if kind.total > len(kind.shown) else ""
            yield Text(f"{kind.title}: {kind.total} {kind.meaning}{shown}")
            for one in kind.shown:
                yield Text(f"  {_short(one.prompt.text)}")


def flip_rows(found: Comparison) -> Iterator[dict[str, object]]:
    """Every prompt that flipped, as JSON values: what it was and is, and both replies, cut where they are long."""
    for group, one in found.flips:
        good, bad = OUTCOMES[group]
        yield {
            "group": group,
            "prompt": one.prompt.text,
            "harm": one.prompt.harm,
            "before": good if one.before.good else bad,
            "after": good if one.after.good else bad,
            "reply_before": one.before.reply,
            "reply_after": one.after.reply,
        }


def _flip_table(found: Comparison) -> Table:
    from rich.table import Table

    shared = len(found.before.prompts & found.after.prompts)
    alone = len(found.before.prompts ^ found.after.prompts)
    drawn = Table(
        caption=f"{shared} prompts asked of both, {alone} of one alone; n=scored+unscored\n"
        f"p: exact McNemar test, adjusted by Benjamini-Hochberg; clear below {SIGNIFICANCE}\n"
        "unclear: chance could explain it; undecided: too few prompts to show anything",
        caption_justify="left",
        pad_edge=False,
    )
    for title in ("", "n", "Became bad", "Became good", "p", "adjusted", ""):
        drawn.add_column(title)
    for one in found.tested:
        pairs, (good, bad) = one.pairs, OUTCOMES[one.pairs.group]
        cells = (f"{pairs.flips.worse} {bad}", f"{pairs.flips.better} {good}", pairs.chance, chance(one.p_adjusted))
        drawn.add_row(
            pairs.title,
            f"{pairs.n}+{pairs.unscored}",
            *(cells if pairs.n else [""] * len(cells)),
            one.outcome,
        )
    return drawn


def _read(path: Path, name: str) -> Side:
    """The side of this name. A usefulness drop is left out: it compares with a model that is neither of the two."""
    card = read_scorecards(path / "scorecard.json" if path.is_dir() else path)[0]
    kept = tuple(one for one in card.measurements if one.name != DROP.name)
    file = path / "trials.jsonl"
    trials = tuple(read_trials(file, subject=name)) if file.is_file() else ()
    if (more := path / "trials_extra.jsonl").is_file():
        trials += tuple(read_attacked(more, subject=name))
    return Side(path, card.model, Scorecard(model=name, measurements=kept), trials)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[: SHOWN_CHARACTERS - 1]}…"


def _lost(pairs: Paired) -> str:
    good, bad = OUTCOMES[pairs.group]
    return f"{pairs.title} ({pairs.flips.worse} {good} → {bad}, {pairs.flips.better} back)"


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))
