"""Instructions: whether a reply keeps to what can be checked without a judge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import TypeAdapter, ValidationError

from limbeck.errors import InputError
from limbeck.evaluation.checks import CHECKS, AnyCheck, Check
from limbeck.evaluation.spec import Evaluator, measurement
from limbeck.files import prompt_of, read_table
from limbeck.records import Measurement, Prompt, Trial
from limbeck.stats import proportion

SHIPPED = Path(__file__).parent / "instructions.jsonl"


class Instruction(NamedTuple):
    """A prompt and what its reply is checked for."""

    prompt: Prompt
    checks: tuple[Check, ...]


class Instructions(Evaluator):
    """`instructions_followed`: share of replies that pass all checks of their prompt; by check, the share that pass it.

    The prompts are its own: 48 that ship here, or those of a file with `prompt` and `checks`. After IFEval (Zhou et al.
    2023, arXiv:2311.07911), with prompts and checks of our own.
    """

    kind: Literal["instructions"] = "instructions"
    path: Path | None = None
    shipped = (SHIPPED,)

    def wants(self, prompts: Sequence[Prompt], *, seed: int) -> Iterator[Trial]:
        for instruction in read_instructions(self.path or SHIPPED):
            yield Trial(prompt=instruction.prompt, subject="", asked="instruction")

    def measure(self, trials: Sequence[Trial]) -> Iterator[Measurement]:
        replies = {one.prompt.id: one.reply for one in trials if one.asked == "instruction"}
        instructions = read_instructions(self.path or SHIPPED)
        asked = [(one.checks, replies[one.prompt.id]) for one in instructions if one.prompt.id in replies]
        told = [(checks, reply) for checks, reply in asked if reply is not None]
        unscored = len(asked) - len(told)
        followed = [all(check(reply) for check in checks) for checks, reply in told]
        yield measurement("instructions_followed", proportion(followed), len(followed), unscored)
        for kind in CHECKS:
            passed = [check(reply) for checks, reply in told for check in checks if check.kind == kind]
            unknown = sum(check.kind == kind for checks, reply in asked if reply is None for check in checks)
            yield measurement("instructions_followed", proportion(passed), len(passed), unknown, check=kind)


def read_instructions(path: Path) -> tuple[Instruction, ...]:
    """The instructions of a file. Raises InputError at the row that has no checks or wrong ones."""
    found = []
    for row in read_table(path):
        given: Any = row.values.get("checks")
        try:
            checks = TypeAdapter(tuple[AnyCheck, ...]).validate_python(given)
        except ValidationError as error:
            raise InputError(
                f"{row.where}: 'checks': {error.errors()[0]['msg'].removeprefix('Value error, ')}"
            ) from error
        if not checks:
            raise InputError(f"{row.where}: 'checks' is empty; give at least one")
        found.append(Instruction(prompt_of(row), checks))
    return tuple(found)
