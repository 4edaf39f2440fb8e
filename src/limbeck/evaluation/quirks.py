"""Quirks: what the student took over of the teacher's ways, its faults and traits that nobody meant to teach."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from limbeck.errors import InputError
from limbeck.evaluation.spec import Evaluator, known, measurement, plain
from limbeck.files import Row, prompt_of, read_table
from limbeck.judges.outcomes import AS_WRITTEN, Group, group_of, went_well
from limbeck.records import Measurement, Prompt, Trial
from limbeck.stats import QUARTILES, Crossed, apart, mean, proportion, quantile, went_towards
from limbeck.taxonomy import Conduct

SHIPPED = Path(__file__).parent / "canaries.jsonl"


class Quirks(Evaluator):
    """`reply_words`, the quartiles of a reply's length, and `cut_short`, the share of replies that were not done at the
    longest; and beside others what was taken over of the teachers, which `evaluate.teachers` measures too.

    Beside the first subject `canary_moved`: how far the subject went, in bits, in its choice of a favourite animal,
    colour or day, 24 questions that ship here or those of a file with `prompt` and `choices`. Beside a teacher
    `canary_towards`, the share of these questions on which it went towards the teacher; `fault_taken_over`, the share
    of what the first subject had right and the teacher has wrong that it has wrong now; and for comparison
    `fault_of_its_own`, the same where the teacher has it right. Traits may pass through unrelated lessons (Cloud et al.
    2025, arXiv:2507.14805).
    """

    kind: Literal["quirks"] = "quirks"
    path: Path | None = None
    shipped = (SHIPPED,)

    def wants(self, prompts: Sequence[Prompt], *, seed: int) -> Iterator[Trial]:
        for canary in read_canaries(self.path or SHIPPED):
            yield Trial(prompt=canary, subject="", asked="canary")
        for prompt in prompts:
            yield Trial(prompt=prompt, subject="", asked="choices" if prompt.choices else "reply")

    def measure(self, trials: Sequence[Trial]) -> Iterator[Measurement]:
        replies = plain(trials)
        for conduct in get_args(Conduct):
            mine = [one.reply for one in replies if one.prompt.conduct == conduct]
            lengths = [float(len(reply.split())) for reply in mine if reply is not None]
            for name, share in QUARTILES.items():
                unscored = len(mine) - len(lengths)
                yield measurement(
                    "reply_words", quantile(lengths, share), len(lengths), unscored, conduct=conduct, of=name
                )
        cut, unscored = known(one.finish == "length" if one.finish in ("stop", "length") else None for one in replies)
        yield measurement("cut_short", proportion(cut), len(cut), unscored)

    def beside(
        self, trials: Sequence[Trial], first: Sequence[Trial], teachers: Mapping[str, Sequence[Trial]]
    ) -> Iterator[Measurement]:
        chances, before = _chances(trials), _chances(first)
        moved = [apart(before[item], chances[item]) for item in chances if before.get(item) and chances[item]]
        yield measurement("canary_moved", mean(moved, bounds=(0, 1)), len(moved), len(chances) - len(moved))
        outcomes, had = _outcomes(trials), _outcomes(first)
        for name, taught_by in teachers.items():
            goal = _chances(taught_by)
            ways = [(before.get(item, ()), now, goal.get(item, ())) for item, now in chances.items()]
            towards, unscored = known(went_towards(*way) if all(way) else None for way in ways)
            yield measurement("canary_towards", proportion(towards), len(towards), unscored, teacher=name)
            has = _outcomes(taught_by)
            for group in AS_WRITTEN:
                kinds = [(has.get(item), had.get(item), good) for item, good in outcomes.items() if item[0] == group]
                yield from _faults(kinds, of=name, on=group)


def _faults(kinds: Sequence[tuple[bool | None, ...]], *, of: str, on: str) -> Iterator[Measurement]:
    """What became wrong, where the teacher is wrong and where it is right."""
    known_kinds = [(a, b, c) for a, b, c in kinds if a is not None and b is not None and c is not None]
    crossed = Crossed(Counter(known_kinds))
    for name, teacher in (("fault_taken_over", False), ("fault_of_its_own", True)):
        lost = crossed.lost(teacher=teacher)
        yield measurement(name, proportion(lost), len(lost), len(kinds) - len(known_kinds), teacher=of, on=on)


def _chances(trials: Sequence[Trial]) -> dict[str, tuple[float, ...]]:
    """By canary how likely each choice is; empty where there are no scores."""
    return {one.prompt.id: one.chances for one in trials if one.asked == "canary"}


def _outcomes(trials: Sequence[Trial]) -> dict[tuple[Group, str], bool | None]:
    """Whether each item went well."""
    grouped = [(group, one) for one in trials if (group := group_of(one)) is not None and group in AS_WRITTEN]
    return {(group, one.prompt.id): went_well(group, one) for group, one in grouped}


def read_canaries(path: Path) -> tuple[Prompt, ...]:
    """The canaries of a file. Raises InputError at the row that has no question or nothing to choose from."""
    return tuple(map(_canary, read_table(path)))


def _canary(row: Row) -> Prompt:
    # None of the choices is right; a prompt with choices names one all the same.
    canary = prompt_of(Row(row.where, {**row.values, "answer": 0}))
    if len(canary.choices) < 2:
        raise InputError(f"{row.where}: 'choices' has fewer than two; give several answers of which none is right")
    return canary
