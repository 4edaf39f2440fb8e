"""The training loop: READ run() FIRST."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from limbeck.errors import InputError
from limbeck.files import write_atomically
from limbeck.judges.grade import GradeSettings
from limbeck.models.chat import check_same_vocabulary
from limbeck.models.spec import ModelSpec
from limbeck.processes import is_first, stopped_in_between, together
from limbeck.protocols import LiveTeacher, Store
from limbeck.records import Checkpoint, Lesson, Prompt, TargetSet
from limbeck.training import TrainSettings
from limbeck.training.pool import Pool, drawn
from limbeck.training.probe import ROBUSTNESS, Probe
from limbeck.training.student import Student, StudentSettings, check_layers

if TYPE_CHECKING:
    from torch import nn

    from limbeck.training.batches import LessonEncoder


def train(
    settings: TrainSettings,
    student: StudentSettings,
    lessons: Sequence[Lesson],
    targets: TargetSet | None,
    start_from: Checkpoint | None,
    validation: Sequence[Prompt],
    judges: GradeSettings,
    teacher: ModelSpec | None = None,
    *,
    store: Store,
    name: str = "student",
) -> Checkpoint:
    """The adapter after all steps, from the adapter of `start_from` or a new one; the checkpoint has the `name`.

    The frozen backbone is checked to be bit for bit what it was. A killed training goes on from its last state with
    the same losses; processes started together share every step. `teacher` gives distributions live where there are no
    `targets`; `validation` is what the student is measured on, and by `judges`, where the settings measure it. Raises
    InputError when there is nothing to learn.
    """
    given = _Given(settings, student, lessons, targets, start_from, validation, judges, teacher)
    return together(partial(_train, store=store, name=name), given)


class _Given(NamedTuple):
    """What a training is of."""

    settings: TrainSettings
    student: StudentSettings
    lessons: Sequence[Lesson]
    targets: TargetSet | None
    start_from: Checkpoint | None
    validation: Sequence[Prompt]
    judges: GradeSettings
    teacher: ModelSpec | None


def _train(given: _Given, *, store: Store, name: str) -> Checkpoint:
    """`train` in one of the processes; the first one writes."""
    settings, student, before = given.settings, given.student, given.start_from
    chosen = choose(settings, Pool.of(given.lessons), seed=store.seed, later=before is not None)
    if before is not None:
        rate = settings.learning_rate * settings.later_round_rate
        settings = settings.model_copy(update={"learning_rate": rate})
    learner = Student(
        student,
        start_from=before.folder if before is not None else None,
        precision=settings.precision,
        seed=store.seed,
    )
    number = before.round + 1 if before is not None else 0
    with _opened(given.teacher, learner) as live:
        check_layers(settings.losses, learner, live)
        encoder = _encoder(given, learner, live, among=chosen)
        usable = _usable(encoder, chosen, settings, is_first=before is None)
        if settings.gradient_checkpointing:
            learner.checkpoint_activations()
        if settings.who_needs("base"):
            learner.keep_untrained()
        frozen = learner.frozen_hash()
        probe = _probe(given, learner, usable, store=store) if settings.measures else None
        taken = run(settings, learner, encoder, usable, probe, store=store, label=f"training {name}, round {number}")
    if taken.steps and before is None and len(taken.unfed) == len(settings.losses):
        kinds = ", ".join(taken.unfed)
        raise InputError(
            f"training {name}: nothing was learnt, for no lesson read had what the losses ({kinds}) learn from "
            "with a weight above 0; add lessons that have (docs/losses.md says what each needs), or name other losses"
        )
    if learner.frozen_hash() != frozen:
        raise AssertionError("the frozen backbone has changed")
    folder = store.folder("adapter")
    if is_first():
        learner.save(folder)
    return Checkpoint(
        name=name,
        folder=folder,
        base=student.model,
        base_hash=learner.identity,
        lessons=len(usable),
        steps=(before.steps if before is not None else 0) + taken.steps,
        round=number,
        unfed=taken.unfed,
        key=store.key,
    )


def _encoder(given: _Given, learner: Student, live: LiveTeacher | None, *, among: Pool) -> LessonEncoder:
    """What turns the lessons into batches, with the soft targets that the losses want."""
    from limbeck.targets.cache import SpanTargets, Targets
    from limbeck.training.batches import LessonEncoder

    settings = given.settings
    return LessonEncoder(
        learner.tokenizer,
        Targets.of(given.targets if settings.who_needs("distribution") else None),
        spans=SpanTargets.of(given.targets if settings.who_needs("spans") else None),
        losses=settings.losses,
        context=learner.context,
        among=among,
        live=live,
        reasons=settings.reasons(given.student.reasoning),
        reasoning_weight=settings.reasoning_weight,
    )


def _usable(encoder: LessonEncoder, lessons: Pool, settings: TrainSettings, *, is_first: bool) -> Pool:
    """The lessons that any loss learns from. Raises InputError where there are none, or the `is_first` round is to
    teach reasoning and has none."""
    usable = lessons.only(map(encoder.teaches, lessons))
    if not usable:
        kinds = ", ".join(loss.kind for loss in settings.losses)
        raise InputError(f"none of the {len(lessons)} lessons has what the losses ({kinds}) learn from")
    if encoder.reasons is not None and is_first and not any(lesson.reasoning for lesson in usable):
        raise InputError(
            f"train.reasoning is then_answer, and none of the {len(usable)} lessons has reasoning; name a teacher "
            "that reasons, give lessons with 'reasoning', or use answer_only"
        )
    return usable


def _probe(given: _Given, learner: Student, usable: Pool, *, store: Store) -> Probe:
    """What measures the student on its way. Raises InputError where a bound would not be measured."""
    settings = given.settings
    probe = Probe(
        settings.probe,
        learner,
        given.student.untrained(),
        given.validation,
        given.judges,
        tools=store.tools,
        wants=frozenset(settings.balance.bounds),
        seed=store.seed,
    )
    if unheld := settings.balance.bounds_on(usable.harms - probe.harms).keys() & usable.harms:
        raise InputError(
            f"train.balance: no validation prompt that must be refused is on {', '.join(sorted(unheld))}, "
            "which lessons refuse, so its bound cannot be held; add some, or leave the bound out (harm: null)"
        )
    return probe


@contextmanager
def _opened(teacher: ModelSpec | None, learner: Student) -> Iterator[LiveTeacher | None]:
    """A live teacher, until the block ends. Raises InputError for one whose weights are elsewhere."""
    if teacher is None:
        yield None
        return
    with teacher.open() as model:
        if not isinstance(model, LiveTeacher):
            raise InputError(
                f"teacher '{teacher.name or teacher.kind}' ({teacher.kind}) is not here; use train.teacher: cached"
            )
        check_same_vocabulary(teacher, model.vocabulary, learner.tokenizer)
        learner.share_with(model.weights)
        yield model


def choose(settings: TrainSettings, lessons: Pool, *, seed: int, later: bool) -> Pool:
    """The lessons of this round: all in the first; later the new ones first, then a sample of the old."""
    return lessons.new_first(seed=seed)[: settings.later_round_lessons] if later else lessons


def step_count(settings: TrainSettings, lessons: int) -> int:
    """Optimizer steps for so many lessons."""
    return settings.max_steps or max(1, math.ceil(settings.epochs * lessons / settings.batch_lessons))


def unfed_line(checkpoint: Checkpoint) -> str | None:
    """What to say where losses of the recipe learnt nothing of the lessons that were read."""
    if not checkpoint.steps or not checkpoint.unfed:
        return None
    return (
        f"training {checkpoint.name}, round {checkpoint.round}: no lesson that was read had what "
        f"{', '.join(checkpoint.unfed)} learns from (docs/losses.md says what each needs)"
    )


class Taken(NamedTuple):
    """How many optimizer steps, and the losses that had no unit in any of them."""

    steps: int
    unfed: tuple[str, ...]


def run(
    settings: TrainSettings,
    learner: Student,
    encoder: LessonEncoder,
    lessons: Pool,
    probe: Probe | None,
    *,
    store: Store,
    label: str,
) -> Taken:
    """All optimizer steps, from the last saved state on."""
    import torch
    from accelerate.utils import send_to_device

    from limbeck.training.course import Course
    from limbeck.training.log import StepLog
    from limbeck.training.state import load_state, save_state
    from limbeck.training.step import names
    from limbeck.training.stepper import Stepper

    steps = step_count(settings, len(lessons))
    stepper = Stepper.of(settings, learner, encoder.live, steps=steps, store=store)
    moving, accelerator = stepper.moving, stepper.accelerator
    here = accelerator.process_index
    state_file = store.folder("state") / "state.pt"
    harms = lessons.harms | (probe.harms if probe is not None else frozenset())
    done, fed, course = 0, set[str](), Course(settings, lessons, harms=harms, seed=store.seed)
    if (state := load_state(state_file)) is not None:
        done, fed = state["step"], set(state["fed"])
        moving.load(state["moving"])
        course.load(state["course"])
    kept_at = -math.inf
    with StepLog(store.folder("metrics"), accelerator, rows=done) as log, stopped_in_between(store.say) as stop:
        for number in store.progress(f"{label}, steps", range(done, steps), total=steps - done):
            begun, share = course.state(), number / steps
            row: dict[str, Any] = {"step": number + 1, "learning_rate": moving.schedule.get_last_lr()[0]}
            if probe is not None and settings.probe.is_due(number, steps=steps):
                row |= course.measured(stepper.outcomes(probe), moving.parameters, share=share)
            row["multipliers"] = multipliers = course.multipliers(share)
            if course.is_met:
                log.note(row | {"losses": {}})
                break
            taught = course.lessons(share)
            # Every process encodes the whole step: what is wrong with a lesson stops them all.
            rewriting = drawn(f"{store.seed} {number}")
            examples = [encoder.example(lesson, seed=rewriting) for lesson in taught]
            mine = examples[here :: accelerator.num_processes]
            batches = [
                send_to_device(batch, accelerator.device)
                for batch in encoder.micro_batches(mine, budget=settings.micro_batch_tokens, multipliers=multipliers)
            ]
            # Dropout and noise hang on the step alone, so that a resumed training draws the same.
            torch.manual_seed(drawn(f"{store.seed} {number} {here}"))
            with learner.without_casts():
                figures = stepper.step(settings, batches, noise_pull=1 + multipliers.get(ROBUSTNESS, 0.0))
            if broken := figures.broken(settings.losses, scaled=stepper.is_scaled):
                what = f"{label}, step {number + 1}: {' and '.join(broken)}"
                raise _stopped(what, taught, learner, moving.parameters, load_state(state_file), store=store)
            # What is kept has just been seen to give finite losses, so it is never one that had broken already.
            if is_first() and (stop.is_set() or time.monotonic() - kept_at > settings.save_every_s):
                log.keep()
                save_state(state_file, {"step": number, "fed": sorted(fed), "moving": moving.state(), "course": begun})
                kept_at = time.monotonic()
            if stop.is_set():
                break
            moving.step(heard=math.isfinite(figures.gradient_norm))
            fed.update(figures.losses)
            log.note(row | figures.row())
            done = number + 1
        if probe is not None and settings.keep == "best" and not course.is_met and not stop.is_set():
            last = course.measured(stepper.outcomes(probe), moving.parameters, share=1.0)
            log.note({"step": done + 1, "multipliers": course.multipliers(1.0), "losses": {}} | last)
    course.restore_best(moving.parameters)
    return Taken(done, tuple(name for name in names(settings.losses) if name not in fed))


def _stopped(
    what: str,
    lessons: Sequence[Lesson],
    learner: Student,
    parameters: Sequence[nn.Parameter],
    state: Mapping[str, Any] | None,
    *,
    store: Store,
) -> InputError:
    """The complaint about a step that cannot be taken. Its lessons are written out, and the student of the last state
    that was kept."""
    from limbeck.training.state import put

    folder = store.folder("stopped")
    file, adapter = folder / "lessons.jsonl", folder / "adapter"
    if is_first():
        write_atomically(file, "".join(lesson.line() + "\n" for lesson in lessons))
    before = ""
    if state is not None:
        put(state["moving"]["parameters"], into=parameters)
        if is_first():
            learner.save(adapter)
        before = f", the adapter as it was before step {state['step'] + 1}, when all was finite, in {adapter}"
    return InputError(
        f"{what}; the lessons of this step are in {file}{before}: mend or leave out a lesson that is odd, or lower "
        "train.learning_rate"
    )
