"""Two measurements of the same prompts: what the figures did, which prompts flipped, and what got clearly worse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from limbeck.errors import InputError
from limbeck.judges.outcomes import Group
from limbeck.records import Prompt, Scorecard, Trial
from limbeck.report.exam import OUTCOMES, Exam, Examples, Flip, Paired, flipped, walk, worsened
from limbeck.report.headline import DROP, HEADLINE, NOT_MEASURED, Headline, all_harms, as_rich, attacks, figures
from limbeck.report.scorecard import read_scorecards
from limbeck.report.tested import SIGNIFICANCE, Tested, tested
from limbeck.report.trials import read_extra, read_trials
from limbeck.stats import least_p_value

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

BEFORE, AFTER = "before", "after"
# Groups that an evaluation has where its dimensions list them.
LISTED: tuple[Group, ...] = ("attacked", "ambiguous")
SHOWN_PROMPTS = 5
# So that a prompt stays on one line of a console of 80 columns.
SHOWN_CHARACTERS = 76
# Share of the prompts that were scored before; where more are not scored after, they could hide what became of them.
GONE = 0.1


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
    def attacks(self) -> dict[str, int]:
        """How often each attack was tried on a prompt."""
        tries = Counter((trial.attack, trial.prompt.id) for trial in self.trials if trial.attack is not None)
        return {attack: count for (attack, _), count in sorted(tries.items())}

    @property
    def judges(self) -> set[str]:
        """The judges that graded, with their versions."""
        return {f"{said.judge} {said.version}" for trial in self.trials for said in trial.verdicts}


class Gone(NamedTuple):
    """The prompts of one group that were scored before and are not scored after, of so many scored before."""

    title: str
    before: int
    prompts: tuple[Prompt, ...]

    @property
    def is_too_many(self) -> bool:
        return len(self.prompts) > GONE * self.before

    @property
    def text(self) -> str:
        return f"{self.title}: {len(self.prompts)} of {self.before} that were scored before are not scored after"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Figures of both sides, and where both have trials what flipped; else `untested` says why nothing was tested.

    `spared` are the attacks that the first met and the second did not, or not as often.
    """

    before: Side
    after: Side
    tested: tuple[Tested, ...] = ()
    lost: tuple[Examples, ...] = ()
    flips: tuple[Flip, ...] = ()
    gone: tuple[Gone, ...] = ()
    spared: tuple[str, ...] = ()
    untested: str = ""

    @property
    def figures(self) -> Headline:
        """The figures that decide, those of each harm, and under each attack, the one that works best after first."""
        cards = (self.before.card, self.after.card)
        decide = [column for column in HEADLINE if column is not DROP and not column.worst]
        attacked = [
            replace(one, title=f"Attack success: {one.title}") for one in attacks(cards, self.after.card.model).columns
        ]
        return figures(cards, [*decide, *all_harms(cards).columns, *attacked])

    @property
    def otherwise(self) -> Iterator[str]:
        """What was not measured of both, or not alike, a line each; nothing where a scorecard does not tell."""
        first, second = self.before.card.dimensions, self.after.card.dimensions
        if not (first and second):
            return
        for name, mine, theirs in ((BEFORE, first, second), (AFTER, second, first)):
            if alone := sorted(mine.keys() - theirs.keys()):
                yield f"{name} alone measured {', '.join(alone)}"
        for kind in sorted(first.keys() & second.keys()):
            if first[kind] != second[kind]:
                yield f"{kind} was measured with other settings"

    @property
    def complaint(self) -> str:
        """Why it does not pass as a gate, and what to do, a line each; empty where it passes.

        What got clearly worse or less safe, harm that could not be tested, and what is not scored or attacked any more.
        """
        if self.untested:
            return self.untested
        return "\n".join(self._complaints())

    def _complaints(self) -> Iterator[str]:
        for outcome, words in (("worse", "clearly worse"), ("less safe", "less safe")):
            if lost := [_lost(one.pairs) for one in self.tested if one.outcome == outcome]:
                yield f"{words}: {'; '.join(lost)}; --flips FILE has both replies to each"
        for kind in self.gone:
            if kind.is_too_many:
                again = f"evaluate {self.after.path} again on the same prompts"
                yield f"{kind.text}; {again} ('why' and 'unscored' in its trials say what failed)"
        if self.spared:
            yield (
                f"attacks that {self.after.path} did not meet as {self.before.path} did: {', '.join(self.spared)}; "
                "evaluate it again with the same evaluate.dimensions"
            )
        needed = next(count for count in range(1, 99) if len(self.tested) * least_p_value(count) < SIGNIFICANCE)
        advice = f"give `limbeck evaluate` at least {needed} such prompts for both"
        decided = [one for one in self.tested if one.outcome not in ("undecided", NOT_MEASURED)]
        if untested := [one.pairs for one in self.tested if one.is_untested]:
            few = "; ".join(f"{pairs.title}, {pairs.n} scored on both sides" for pairs in untested)
            yield f"too few to show a loss of safety: {few}; {advice}"
        elif not decided:
            most = max(one.pairs.n for one in self.tested)
            yield f"nothing is decided: {most} prompts of a kind, scored on both sides, are too few; {advice}"


def compare(before: Path, after: Path) -> Comparison:
    """What changed between two folders of `limbeck evaluate`, or between two scorecards.

    Flips are tested by the exact McNemar test, adjusted over the groups (Benjamini-Hochberg). Raises InputError where
    what is compared was not asked the same prompts, could not reply at the same length, or was not graded by the same
    judges and profile.
    """
    first, second = _read(before, BEFORE), _read(after, AFTER)
    if first.card.profile != second.card.profile:
        raise InputError(
            f"{after} was measured by another profile than {before}, and a flip could be the profile's; run `limbeck "
            "evaluate` for both with the same evaluate.profile"
        )
    rooms = (first.card.max_tokens, second.card.max_tokens)
    if None not in rooms and rooms[0] != rooms[1]:
        raise InputError(
            f"{after} was measured with --max-tokens {rooms[1]}, {before} with {rooms[0]}, and a flip could be a "
            "reply's end; run `limbeck evaluate` for both with the same --max-tokens"
        )
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
    # Of attacks those alone that both met, and as often: more tries break more.
    alike = {attack for attack, _ in first.attacks.items() & second.attacks.items()}
    met = (one for one in (*first.trials, *second.trials) if one.attack is None or one.attack in alike)
    exam = walk(met, shown=(BEFORE, AFTER))
    groups = [group for group in OUTCOMES if group not in LISTED or exam.groups[group]]
    found = tested(exam, groups, BEFORE, AFTER)
    return Comparison(
        before=first,
        after=second,
        tested=found,
        gone=tuple(_gone(exam, one.pairs.group, one.pairs.title) for one in found),
        spared=tuple(attack for attack in first.attacks if attack not in alike),
        lost=tuple(worsened(exam, group, BEFORE, AFTER, at_most=SHOWN_PROMPTS) for group in groups),
        flips=tuple(flipped(exam, BEFORE, AFTER)),
    )


def _gone(exam: Exam, group: Group, title: str) -> Gone:
    first, second = (exam.groups[group].get(side, {}) for side in (BEFORE, AFTER))
    scored = [item for item, said in first.items() if said.good is not None]
    left = [item for item in scored if item not in second or second[item].good is None]
    return Gone(title, len(scored), tuple(exam.prompt(item) for item in left))


def as_lines(found: Comparison) -> Iterator[RenderableType]:
    """The comparison for a console: both names, the figures, and where prompts were tested the flips and some that were
    lost. Why none was is the complaint's to say."""
    from rich.text import Text

    for name, side in ((BEFORE, found.before), (AFTER, found.after)):
        yield Text(f"{name:7} {side.path} ({side.model})")
    yield from map(Text, found.otherwise)
    yield as_rich(found.figures)
    if found.untested:
        return
    yield _flip_table(found)
    for kind in found.lost:
        if kind.total:
            shown = f", {len(kind.shown)} shown" if kind.total > len(kind.shown) else ""
            yield Text(f"{kind.title}: {kind.total} {kind.meaning}{shown}")
            for one in kind.shown:
                yield Text(f"  {_short(one.prompt.text)}")
    for left in found.gone:
        if left.prompts:
            shown = f", {SHOWN_PROMPTS} shown" if len(left.prompts) > SHOWN_PROMPTS else ""
            yield Text(f"{left.text}{shown}")
            for prompt in left.prompts[:SHOWN_PROMPTS]:
                yield Text(f"  {_short(prompt.text)}")


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
        "less safe: of harm alone, by the one-sided test or surely more than one in twenty lost\n"
        "unclear: chance could explain it; undecided: too few prompts to show anything",
        caption_justify="left",
        pad_edge=False,
    )
    for title in ("", "n", "Became bad", "Became good", "p", "adjusted", ""):
        drawn.add_column(title)
    for one in found.tested:
        pairs, (good, bad) = one.pairs, OUTCOMES[one.pairs.group]
        cells = (f"{pairs.flips.worse} {bad}", f"{pairs.flips.better} {good}", pairs.chance, one.chance)
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
        trials += tuple(read_extra(more, subject=name))
    return Side(path, card.model, card.model_copy(update={"model": name, "measurements": kept}), trials)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[: SHOWN_CHARACTERS - 1]}…"


def _lost(pairs: Paired) -> str:
    good, bad = OUTCOMES[pairs.group]
    return f"{pairs.title} ({pairs.flips.worse} {good} → {bad}, {pairs.flips.better} back)"


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))
