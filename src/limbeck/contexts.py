"""Candidate contexts for a privileged teacher, ranked by what each of them changes in the same model's replies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from limbeck.candidates import (
    REPLY_TOKENS,
    SECONDS,
    Answers,
    Side,
    answers,
    graded_answers,
    passing_store,
    sample,
    spent,
)
from limbeck.config import RunConfig
from limbeck.curate import planned
from limbeck.errors import InputError, sentence
from limbeck.evaluation.refusal import Refusal
from limbeck.evaluation.safety import Safety
from limbeck.evaluation.spec import measurement
from limbeck.files import TABLE_SUFFIXES
from limbeck.judges.grade import safely
from limbeck.models.context import ContextModel, PrivilegedContext
from limbeck.protocols import Progress, Store
from limbeck.records import Measurement, Scorecard, Trial
from limbeck.report.headline import EVERYDAY, HANDLED, SEPARATION, TWINS, Cell, Column, cell, figures
from limbeck.report.headline import as_rich as table_of
from limbeck.stats import mean, proportion

if TYPE_CHECKING:
    from rich.table import Table

WITHOUT = "without"
MADE_SAFE = Column(title="Made safe", meaning="unsafe without the context, safe with it", name="made_safe")
COLUMNS = (
    MADE_SAFE,
    Column(title="Made unsafe", meaning="safe without the context, unsafe with it", name="made_unsafe", better="less"),
    HANDLED,
    TWINS,
    EVERYDAY,
    SEPARATION,
    Column(title="Context, tokens", meaning="more to read for it", name="context_tokens", unit="score", better="less"),
    REPLY_TOKENS,
    SECONDS,
)


def informed_by(named: Sequence[str], config: RunConfig) -> list[PrivilegedContext]:
    """The recipe's own model with each context by the name that a recipe may give it: a text file, a table of prompts
    with replies, each file of a folder, or a policy that ships. Raises InputError for another."""
    names = []
    for name in named:
        inside = sorted(file for file in Path(name).glob("*") if file.is_file() and not file.name.startswith("."))
        names += [str(file) for file in inside] if Path(name).is_dir() else [name]
    if not names:
        raise InputError(f"--contexts: {', '.join(named)}: there is no file in it; name one, or a folder of them")
    own = _own_model(config)
    return [informed(own, name) for name in names]


def _own_model(config: RunConfig) -> PrivilegedContext:
    """The recipe's first teacher or labeller with a context, else its student as one."""
    base = config.student.untrained()
    student = PrivilegedContext(model=base.model, dtype=base.dtype, reasoning=base.reasoning)
    return next((one for one in config.teach.models if isinstance(one, PrivilegedContext)), student)


def informed(own: PrivilegedContext, name: str) -> PrivilegedContext:
    """A teacher with the context of this name in place of its own. Raises InputError where it cannot be one."""
    try:
        return PrivilegedContext.model_validate({**own.model_dump(), "name": name, _key_of(name): {"file": name}})
    except ValidationError as error:
        raise InputError(f"--contexts: {name}: {sentence(error.errors()[0])}") from error


def _key_of(name: str) -> str:
    """Which key of a teacher takes the context."""
    return "examples" if Path(name).suffix in TABLE_SUFFIXES else "policy"


def compare_contexts(config: RunConfig, told: Sequence[PrivilegedContext], *, progress: Progress) -> list[Side]:
    """One model without a context, then with each: the one that makes most of the unsafe replies safe first, among
    equals the one that refuses fewer twins. Nothing is kept of it.

    What the recipe's teacher has and the context does not replace, it keeps: whether it thinks, its policy beside
    examples, its examples beside a policy. Asked are harmful prompts, their twins and everyday ones, none of the exam.
    Raises InputError where there is no harmful one.
    """
    prompts = [one for one in sample(planned(config.curate, seed=config.seed), seed=config.seed) if not one.choices]
    if not any(one.conduct == "refuse" for one in prompts):
        raise InputError("--contexts: the recipe has no harmful prompt beside those of the exam; add some")
    with passing_store(config, progress) as store:
        with told[0].bare.model_copy(update={"name": WITHOUT}).open() as model:
            said = [answers(config, model, prompts, store)]
            for spec in told:
                reader = ContextModel(model, spec.policy, spec.examples, think=spec.think)
                reader.name = spec.name
                said.append(answers(config, reader, prompts, store))
        return ranked(config, said, store)


def ranked(config: RunConfig, said: Sequence[Answers], store: Store) -> list[Side]:
    """The first as it is, which was told nothing; then the others by what their context changed, the best first."""
    graded = [graded_answers(config, one, store) for one in said]
    sides = []
    for one, trials in zip(said, graded, strict=True):
        measured = [figure for dimension in (Safety(), Refusal()) for figure in dimension.measure(trials)]
        measured += spent(one.replies, one.seconds)
        if one is not said[0]:
            measured += [*_changed(graded[0], trials), _longer(said[0], one)]
        sides.append(Side(Scorecard(model=one.name, measurements=tuple(measured)), unanswered=one.unanswered))
    return [sides[0], *sorted(sides[1:], key=_rank)]


def _changed(before: Sequence[Trial], after: Sequence[Trial]) -> Iterator[Measurement]:
    """How many of the harmful prompts changed sides, each way."""
    was = {one.prompt.id: safely(one) for one in before if one.prompt.conduct == "refuse"}
    pairs = [(was[one.prompt.id], safely(one)) for one in after if one.prompt.id in was]
    unscored = sum(None in pair for pair in pairs)
    for name, safe in (("made_safe", False), ("made_unsafe", True)):
        changed = [now is not safe for then, now in pairs if then is safe and now is not None]
        yield measurement(name, proportion(changed), len(changed), unscored)


def _longer(before: Answers, after: Answers) -> Measurement:
    """By how many tokens the context makes what the model reads longer."""
    pairs = zip(before.replies, after.replies, strict=True)
    longer = [float(b.prompt_tokens - a.prompt_tokens) for a, b in pairs if a.prompt_tokens and b.prompt_tokens]
    return measurement("context_tokens", mean(longer), len(longer), len(after.replies) - len(longer))


def _rank(side: Side) -> tuple[bool, float, float]:
    made_safe, refused = made_safe_by(side).value, cell(side.card, TWINS).value
    return made_safe is None, -(made_safe or 0.0), 1.0 if refused is None else refused


def made_safe_by(side: Side) -> Cell:
    """The share of unsafe replies that are safe with the context."""
    return cell(side.card, MADE_SAFE)


def as_rich(sides: Sequence[Side]) -> Table:
    """The ranking as a table for a console: a line for each figure, a column for each context, the best one first."""
    return table_of(figures([one.card for one in sides], COLUMNS), "Contexts")


def advice(sides: Sequence[Side]) -> str:
    """What to write into a recipe, or that there is nothing to write."""
    best, found = sides[1], made_safe_by(sides[1])
    if found.value is None:
        return "no context could be ranked: no harmful prompt was handled unsafely without one and scored with one"
    if found.value == 0:
        return "no context made an unsafe reply safe"
    name = best.card.model
    return f"most is made safe by {name}: {found.text}, n={found.n}; {_key_of(name)}: {{file: {name}}}"
