"""What the exam shows reply by reply: how each subject did on the same prompts, and where it changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, zip_longest
from typing import NamedTuple

from limbeck.judges.cues import CUES
from limbeck.judges.outcomes import Group, group_of, went_well
from limbeck.records import Prompt, Span, Trial
from limbeck.report.headline import chance, in_order, signed_points
from limbeck.stats import Figure, Flips, flips, paired_difference

# What a good and a bad outcome is called in each group of prompts.
OUTCOMES: dict[Group, tuple[str, str]] = {
    "harmful": ("handled", "unsafe"),
    "twins": ("answered", "refused"),
    "everyday": ("answered", "refused"),
    "choices": ("right", "wrong"),
    "attacked": ("withstood", "broken"),
    "ambiguous": ("abstained", "guessed"),
}
TITLES: dict[Group, str] = {
    "harmful": "Harmful prompts",
    "twins": "Twins, harmless",
    "everyday": "Everyday questions",
    "choices": "Multiple choice",
    "attacked": "Harmful, under attack",
    "ambiguous": "Bias, ambiguous text",
}
SHOWN_CHARACTERS = 900


class Said(NamedTuple):
    """A reply, whether it went well, None where no judge could say, the reasoning before it, and its risky wordings."""

    reply: str
    good: bool | None
    reasoning: str = ""
    risks: tuple[Span, ...] = ()

    @property
    def pieces(self) -> list[tuple[str, str]]:
        """The reply cut where a risky wording begins or ends: each piece with the labels of those that it lies in."""
        ends = sorted({0, len(self.reply), *(end for one in self.risks for end in (one.start, one.end))})
        return [(self.reply[start:end], self._labels(start, end)) for start, end in pairwise(ends)]

    def _labels(self, start: int, end: int) -> str:
        return ", ".join(dict.fromkeys(one.label for one in self.risks if one.start <= start and end <= one.end))


@dataclass(frozen=True)
class Exam:
    """The outcomes of every subject by group and prompt, the replies of the subjects that are shown, how likely each
    subject was to refuse beside the prompt's risk, and how likely it found each choice of a canary. BBQ's `ambiguous`
    questions are none of the exam's prompts."""

    prompts: dict[str, Prompt] = field(default_factory=dict)
    groups: dict[Group, dict[str, dict[str, Said]]] = field(
        default_factory=lambda: {group: defaultdict(dict) for group in OUTCOMES}
    )
    judges: set[tuple[str, str]] = field(default_factory=set)
    trials: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    caution: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    ambiguous: dict[str, Prompt] = field(default_factory=dict)
    canaries: dict[str, Prompt] = field(default_factory=dict)
    chances: dict[str, dict[str, tuple[float, ...]]] = field(default_factory=lambda: defaultdict(dict))
    replies: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))

    def prompt(self, item: str) -> Prompt:
        """The prompt of this id, be it the exam's or BBQ's."""
        return self.prompts.get(item) or self.ambiguous[item]

    @property
    def languages(self) -> list[str]:
        """The languages of the prompts."""
        return sorted({prompt.language for prompt in self.prompts.values()})


def walk(trials: Iterable[Trial], *, shown: Sequence[str]) -> Exam:
    """All that the page needs of the trials, in one pass; only the replies of the subjects in `shown` are kept."""
    exam = Exam()
    for trial in trials:
        exam.trials[trial.subject] += 1
        exam.judges.update((said.judge, said.version) for said in trial.verdicts)
        if trial.perturbation is None and trial.asked in ("reply", "choices", "decision"):
            exam.prompts.setdefault(trial.prompt.id, trial.prompt)
        if trial.caution is not None:
            exam.caution[trial.subject].append(trial.caution)
        if trial.asked == "canary" and trial.chances:
            exam.canaries[trial.prompt.id] = trial.prompt
            exam.chances[trial.subject][trial.prompt.id] = trial.chances
        if trial.is_plain and trial.reply is not None and trial.subject in shown:
            exam.replies[trial.subject][trial.prompt.id] = trial.reply
        group = group_of(trial)
        if group is None:
            continue
        if group == "ambiguous":
            exam.ambiguous.setdefault(trial.prompt.id, trial.prompt)
        good = went_well(group, trial)
        said = _said(trial, good) if trial.subject in shown else Said("", good)
        of_subject = exam.groups[group][trial.subject]
        # A prompt is attacked in several ways, and the one that works counts.
        of_subject[trial.prompt.id] = min(of_subject.get(trial.prompt.id, said), said, key=_how_well)
    return exam


def _how_well(said: Said) -> int:
    """Broken comes before not known, and that before withstood."""
    return (False, None, True).index(said.good)


def _said(trial: Trial, good: bool | None) -> Said:
    return Said(_reply(trial), good, (trial.reasoning or "")[:SHOWN_CHARACTERS], _risks(trial))


def _reply(trial: Trial) -> str:
    if trial.chosen is not None:
        return trial.prompt.choices[trial.chosen]
    if trial.reply is None:
        return f"(no reply: {trial.finish or 'not asked'}{f', {trial.why}' if trial.why else ''})"
    cut = trial.reply[:SHOWN_CHARACTERS]
    return cut + (f" … (cut; {len(trial.reply)} characters)" if cut != trial.reply else "") or "(an empty reply)"


def _risks(trial: Trial) -> tuple[Span, ...]:
    """The wordings that judges call risky, within the characters that are shown; a cue of a refusal is none."""
    return tuple(
        span.model_copy(update={"end": min(span.end, SHOWN_CHARACTERS)})
        for verdict in trial.verdicts
        for span in verdict.spans
        if span.label not in CUES and span.start < SHOWN_CHARACTERS
    )


class Paired(NamedTuple):
    """Two subjects on the same prompts of one group: how many went how, and the mean change."""

    group: Group
    before: str
    after: str
    still_good: int
    still_bad: int
    flips: Flips
    difference: Figure
    unscored: int

    @property
    def n(self) -> int:
        """Prompts on which both subjects were scored."""
        return self.still_good + self.still_bad + self.flips.better + self.flips.worse

    @property
    def title(self) -> str:
        return TITLES[self.group]

    @property
    def change(self) -> str:
        """The mean change in points with its interval."""
        return signed_points(self.difference)

    @property
    def chance(self) -> str:
        """The p value of the flips."""
        return chance(self.flips.p_value)

    @property
    def parts(self) -> list[tuple[str, str, int]]:
        """The four outcomes as a kind, words and a count, best first."""
        good, bad = OUTCOMES[self.group]
        return [
            ("good", f"{good} both times", self.still_good),
            ("better", f"{bad} → {good}", self.flips.better),
            ("worse", f"{good} → {bad}", self.flips.worse),
            ("bad", f"{bad} both times", self.still_bad),
        ]


def paired(exam: Exam, group: Group, before: str, after: str) -> Paired:
    """What changed from one subject to another on the prompts that both were asked."""
    first, second = (exam.groups[group].get(subject, {}) for subject in (before, after))
    both = [(first[item].good, second[item].good) for item in first if item in second]
    known = [(a, b) for a, b in both if a is not None and b is not None]
    was, is_now = [a for a, _ in known], [b for _, b in known]
    return Paired(
        group=group,
        before=before,
        after=after,
        still_good=known.count((True, True)),
        still_bad=known.count((False, False)),
        flips=flips(was, is_now),
        difference=paired_difference(was, is_now),
        unscored=len(both) - len(known),
    )


class Example(NamedTuple):
    """One prompt and what two subjects said to it."""

    prompt: Prompt
    before: Said
    after: Said


class Examples(NamedTuple):
    """Some examples of one kind, of `total` that there are."""

    title: str
    meaning: str
    group: Group
    total: int
    shown: tuple[Example, ...]


def examples(exam: Exam, before: str, after: str, *, at_most: int) -> list[Examples]:
    """Where the later subject improved, is still unsafe, and refuses what is harmless.

    Chosen by the hash of the prompt with the harms in turn, so that nobody picked them.
    """
    harmful = _pairs(exam, ("harmful",), before, after)
    harmless = _pairs(exam, ("twins", "everyday"), before, after)
    improved = [one for one in harmful if one.before.good is False and one.after.good]
    unsafe = [one for one in harmful if one.after.good is False]
    refused = [one for one in harmless if one.after.good is False]
    kinds: list[tuple[str, str, Group, list[Example]]] = [
        ("Where it improved", f"{before} complied, {after} handled it safely", "harmful", improved),
        ("Where it is still unsafe", f"{after} complied", "harmful", unsafe),
        ("Where it refuses too much", f"harmless, and {after} refused", "twins", refused),
    ]
    return [
        Examples(title, meaning, group, len(found), _some(found, at_most)) for title, meaning, group, found in kinds
    ]


class Flip(NamedTuple):
    """One prompt of a group on which the outcome changed."""

    group: Group
    example: Example


def flipped(exam: Exam, before: str, after: str) -> list[Flip]:
    """Every prompt whose outcome changed, group by group."""
    return [
        Flip(group, one)
        for group in OUTCOMES
        for one in _pairs(exam, (group,), before, after)
        if None not in (one.before.good, one.after.good) and one.before.good != one.after.good
    ]


def worsened(exam: Exam, group: Group, before: str, after: str, *, at_most: int) -> Examples:
    """What went well before and does not after, in one group; chosen by hash as well."""
    good, bad = OUTCOMES[group]
    found = [one for one in _pairs(exam, (group,), before, after) if one.before.good and one.after.good is False]
    return Examples(TITLES[group], f"{good} → {bad}", group, len(found), _some(found, at_most))


def _pairs(exam: Exam, groups: Sequence[Group], before: str, after: str) -> list[Example]:
    return [
        Example(exam.prompt(item), first[item], said)
        for group in groups
        for first, second in [(exam.groups[group].get(before, {}), exam.groups[group].get(after, {}))]
        for item, said in second.items()
        if item in first
    ]


def _some(found: Sequence[Example], at_most: int) -> tuple[Example, ...]:
    by_harm: dict[str, list[Example]] = defaultdict(list)
    for one in sorted(found, key=lambda one: one.prompt.id):
        by_harm[one.prompt.harm or ""].append(one)
    columns = [by_harm[harm] for harm in in_order(by_harm)]
    in_turn = [one for layer in zip_longest(*columns) for one in layer if one is not None]
    return tuple(in_turn[:at_most])
