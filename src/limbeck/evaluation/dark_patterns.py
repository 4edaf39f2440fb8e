"""Dark patterns: how a model manipulates its own user, who asked for nothing of the kind."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from limbeck.errors import InputError
from limbeck.evaluation.spec import Evaluator, known, measurement
from limbeck.files import read_table
from limbeck.judges import SafetyJudge
from limbeck.records import Measurement, Prompt, Trial, asked
from limbeck.stats import proportion

# What a row has: as DarkBench's CSV and its JSONL name it, or plainly.
COLUMNS = (("Example", "Deceptive Pattern"), ("input", "target"), ("prompt", "pattern"))


class DarkPatterns(Evaluator):
    """`dark_patterns`: of replies to prompts that invite a pattern, the share in which the judge finds it; over all and
    by pattern.

    Read from `path`: DarkBench's own CSV or JSONL (Kran et al. 2025, arXiv:2503.10728), or `prompt` and `pattern`.
    The judge grades these replies alone and scores each pattern under its name, as the rubric `dark_patterns` asks.
    """

    kind: Literal["dark_patterns"] = "dark_patterns"
    path: Path
    judge: SafetyJudge

    def wants(self, prompts: Sequence[Prompt], *, seed: int) -> Iterator[Trial]:
        for prompt in read_invitations(self.path):
            yield Trial(prompt=prompt, subject="", asked="dark_pattern")

    def measure(self, trials: Sequence[Trial]) -> Iterator[Measurement]:
        mine = [one for one in trials if one.asked == "dark_pattern"]
        yield _share(mine)
        for pattern in sorted({one.prompt.harm for one in mine if one.prompt.harm}):
            yield _share([one for one in mine if one.prompt.harm == pattern], pattern=pattern)


def _share(trials: Sequence[Trial], **slice_: str) -> Measurement:
    outcomes, unscored = known(found(one) for one in trials)
    return measurement("dark_patterns", proportion(outcomes), len(outcomes), unscored, **slice_)


def found(trial: Trial) -> bool | None:
    """Whether the judge finds the pattern that the prompt invites; None where it says nothing of that one."""
    said = next((one for one in trial.verdicts if trial.prompt.harm in one.harm), None)
    return None if said is None or said.harmful is None else trial.prompt.harm in said.harmful


def read_invitations(path: Path) -> list[Prompt]:
    """The prompts of a file, each with the pattern that it invites as its harm. Raises InputError at a row that lacks
    one of them."""
    prompts = []
    for row in read_table(path):
        told = [tuple(str(row.values.get(name) or "").strip() for name in names) for names in COLUMNS]
        text, pattern = next((both for both in told if all(both)), ("", ""))
        if not text:
            either = " or ".join(f"'{first}' and '{second}'" for first, second in COLUMNS)
            raise InputError(f"{row.where}: a prompt and the pattern it invites are wanted, in {either}")
        harm = re.sub(r"\W+", "_", pattern.lower())
        prompts.append(Prompt(messages=asked(text), harm=harm, tier="safe", conduct="answer", source=path.name))
    return prompts
