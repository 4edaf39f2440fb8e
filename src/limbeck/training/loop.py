"""The training loop: READ run() FIRST."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from limbeck.errors import InputError
from limbeck.files import write_atomically
from limbeck.judges.grade import GradeSettings
from limbeck.models.chat import check_same_vocabulary
from limbeck.models.spec import ModelSpec
from limbeck.processes import check_together, is_first, stopped_in_between, together
from limbeck.protocols import LiveTeacher, Store
from limbeck.records import Checkpoint, Lesson, Prompt, TargetSet
from limbeck.training import TrainSettings
from limbeck.training.pool import Pool
from limbeck.training.probe import ROBUSTNESS, Outcome, Probe
from limbeck.training.student import Student, StudentSettings, check_layers

if TYPE_CHECKING:
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
    given = (settings, student, lessons, targets, start_from, validation, judges, teacher, store, name)
    return together(_train, *given)


def _train(
    settings: TrainSettings,
    student: StudentSettings,
    lessons: Sequence[Lesson],
    targets: TargetSet | None,
    start_from: Checkpoint | None,
    validation: Sequence[Prompt],
    judges: GradeSettings,
    teacher: ModelSpec | None,
    store: Store,
    name: str,
) -> Checkpoint:
    """`train` in one of the processes; the first one writes."""
    from limbeck.targets.cache import SpanTargets, Targets
    from limbeck.training.batches import LessonEncoder

    chosen = choose(settings, Pool.of(lessons), seed=store.seed, later=start_from is not None)
    if start_from is not None:
        rate = settings.learning_rate * settings.later_round_rate
        settings = settings.model_copy(update={"learning_rate": rate})
    learner = Student(
        student,
        start_from=start_from.folder if start_from is not None else None,
        precision=settings.precision,
        seed=store.seed,
    )
    for loss in settings.losses:
        check_layers(loss, loss.student_layers, of=learner.model.get_base_model(), name=learner.name)
    known = Targets.of(targets if settings.who_needs("distribution") else None)
    spans = SpanTargets.of(targets if settings.who_needs("spans") else None)
    number = start_from.round + 1 if start_from is not None else 0
    with _opened(teacher, learner) as live:
        if live is not None:
            for loss in settings.losses:
                check_layers(loss, loss.teacher_layers, of=live.weights, name=f"teacher '{live.name}'")
        encoder = LessonEncoder(
            learner.tokenizer,
            known,
            spans=spans,
            losses=settings.losses,
            context=learner.context,
            among=chosen,
            live=live,
            reasons=settings.reasons(student.reasoning),
            reasoning_weight=settings.reasoning_weight,
        )
        usable = chosen.only(map(encoder.teaches, chosen))
        if not usable:
            kinds = ", ".join(loss.kind for loss in settings.losses)
            raise InputError(f"none of the {len(chosen)} lessons has what the losses ({kinds}) learn from")
        if encoder.reasons is not None and start_from is None and not any(lesson.reasoning for lesson in usable):
            raise InputError(
                f"train.reasoning is then_answer, and none of the {len(usable)} lessons has reasoning; name a teacher "
                "that reasons, give lessons with 'reasoning', or use answer_only"
            )
        if settings.gradient_checkpointing:
            learner.checkpoint_activations()
        if settings.who_needs("base"):
            learner.keep_untrained()
        before = learner.frozen_hash()
        probe = None
        if settings.measures:
            wants = frozenset(settings.balance.bounds)
            base = student.untrained()
            probe = Probe(
                settings.probe, learner, base, validation, judges, tools=store.tools, wants=wants, seed=store.seed
            )
            if settings.stop_when_met is not None and (lacking := probe.lacks(wants)):
                raise InputError(
                    f"train.stop_when_met: no validation prompt that must be refused is on {', '.join(lacking)}, whose "
                    "bound is never met then; add some, or leave stop_when_met out"
                )
        taken = run(settings, learner, encoder, usable, probe, store=store, label=f"training {name}, round {number}")
    if taken.steps and start_from is None and len(taken.unfed) == len(settings.losses):
        kinds = ", ".join(taken.unfed)
        raise InputError(
            f"training {name}: nothing was learnt, for no lesson read had what the losses ({kinds}) learn from "
            "with a weight above 0; add lessons that have (docs/losses.md says what each needs), or name other losses"
        )
    if learner.frozen_hash() != before:
        raise AssertionError("the frozen backbone has changed")
    folder = store.folder("adapter")
    if is_first():
        learner.save(folder)
    done_before = start_from.steps if start_from is not None else 0
    return Checkpoint(
        name=name,
        folder=folder,
        base=student.model,
        base_hash=learner.identity,
        lessons=len(usable),
        steps=done_before + taken.steps,
        round=number,
        unfed=taken.unfed,
        key=store.key,
    )


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


def learning_rate_share(step: int, *, steps: int, warmup: int) -> float:
    """Share of the full learning rate at a step (from 0): linear up to `warmup`, then half a cosine; never 0."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


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
    from accelerate import Accelerator
    from accelerate.utils import gather_object, send_to_device

    from limbeck.training.course import Course
    from limbeck.training.objective import Objective
    from limbeck.training.state import load_state, save_state
    from limbeck.training.step import Scaled, names, run_step

    accelerator = Accelerator(
        mixed_precision="no",
        cpu=not torch.cuda.is_available(),
        log_with=list(settings.track) or None,
        project_dir=store.folder("track") if settings.track else None,
    )
    check_together(accelerator.num_processes)
    if accelerator.distributed_type.value == "FSDP":
        raise InputError("FSDP through accelerate is not supported yet: its shards are not saved; use DDP (torchrun)")
    accelerator.init_trackers("limbeck")
    apart = settings.balance.apart
    objective = Objective(learner.model, settings.losses, apart=apart, live=encoder.live)
    parameters = [*learner.trainable(), *objective.maps.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    steps = step_count(settings, len(lessons))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, partial(learning_rate_share, steps=steps, warmup=math.ceil(settings.warmup * steps))
    )
    objective, optimizer = accelerator.prepare(objective, optimizer)
    objective.train()
    scaled = Scaled(torch.amp.GradScaler(accelerator.device.type, enabled=settings.precision == "float16"), optimizer)

    state_file = store.folder("state") / "state.pt"
    metrics = store.folder("metrics") / "metrics.jsonl" if is_first() else Path(os.devnull)
    done, fed, course = 0, set[str](), Course(settings, lessons, seed=store.seed)
    if (state := load_state(state_file)) is not None:
        done, fed = state["step"], set(state["fed"])
        with torch.no_grad():
            for parameter, saved in zip(parameters, state["parameters"], strict=True):
                parameter.copy_(saved)
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        scaled.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"])
        course.load(state["course"])
    _truncate(metrics, rows=done)

    def measured() -> list[Outcome]:
        """What a probe finds, each process with its share of the prompts."""
        assert probe is not None
        found: list[Outcome] = gather_object(
            list(probe.outcomes(accelerator.process_index, of=accelerator.num_processes))
        )
        return found

    saved_at = time.monotonic()
    with metrics.open("a", encoding="utf-8") as log, stopped_in_between(store.say) as stop:
        for number in store.progress(label, range(done, steps), total=steps - done):
            row: dict[str, Any] = {"step": number + 1, "learning_rate": schedule.get_last_lr()[0]}
            if probe is not None and number % settings.probe.every_steps == 0:
                row |= course.measured(measured(), parameters, share=number / steps)
                if course.is_met:
                    log.write(json.dumps(row | {"losses": {}}) + "\n")
                    break
            share = number / steps
            row["multipliers"] = multipliers = course.multipliers(share)
            taught = course.lessons(share)
            # Every process encodes the whole step: what is wrong with a lesson stops them all.
            examples = [encoder.example(lesson) for lesson in taught]
            mine = examples[accelerator.process_index :: accelerator.num_processes]
            budget = settings.micro_batch_tokens
            batches = [
                send_to_device(batch, accelerator.device)
                for batch in encoder.micro_batches(mine, budget=budget, multipliers=multipliers)
            ]
            with learner.without_casts():
                figures = run_step(
                    objective,
                    settings.losses,
                    batches,
                    parameters,
                    accelerator,
                    clip=settings.clip,
                    apart=apart,
                    noise_pull=1 + multipliers.get(ROBUSTNESS, 0.0),
                    scaled=scaled,
                )
            if broken := figures.broken(scaled=scaled.factor(accelerator.device) > 1):
                raise _stopped(f"{label}, step {number + 1}: {' and '.join(broken)}", taught, learner, store)
            scaled.scaler.step(optimizer)
            scaled.scaler.update()
            if math.isfinite(figures.gradient_norm):
                schedule.step()
            optimizer.zero_grad()
            fed.update(figures.losses)
            row |= figures.row()
            log.write(json.dumps(row) + "\n")
            log.flush()
            accelerator.log(dict(_flat(row)), step=number + 1)
            done = number + 1
            due = time.monotonic() - saved_at > settings.save_every_s
            if is_first() and (due or stop.is_set()):
                os.fsync(log.fileno())
                save_state(
                    state_file,
                    {
                        "step": done,
                        "fed": sorted(fed),
                        "parameters": [parameter.detach().cpu() for parameter in parameters],
                        "optimizer": optimizer.state_dict(),
                        "schedule": schedule.state_dict(),
                        "scaler": scaled.scaler.state_dict(),
                        "random": torch.get_rng_state(),
                        "course": course.state(),
                    },
                )
                saved_at = time.monotonic()
            if stop.is_set():
                break
        if probe is not None and settings.keep == "best" and not course.is_met and not stop.is_set():
            last = course.measured(measured(), parameters, share=1.0)
            log.write(json.dumps({"step": done + 1, "losses": {}, "multipliers": {}} | last) + "\n")
    course.restore_best(parameters)
    # Accelerate's own end of a training leaves the other processes too.
    for tracker in accelerator.trackers:
        tracker.finish()
    return Taken(done, tuple(name for name in names(settings.losses) if name not in fed))


def _flat(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The figures of a step under names of their own; what was not measured is left out."""
    for name, value in row.items():
        if isinstance(value, Mapping):
            for part, figure in value.items():
                # A rate is on how many of how many prompts it went wrong.
                yield f"{name}/{part}", figure[0] / figure[1] if isinstance(figure, list) else figure
        elif value is not None:
            yield name, value


def _stopped(what: str, lessons: Sequence[Lesson], learner: Student, store: Store) -> InputError:
    """The complaint about a step that cannot be taken. Its lessons are written out, and the student before it."""
    folder = store.folder("stopped")
    file = folder / "lessons.jsonl"
    if is_first():
        learner.save(folder / "adapter")
        write_atomically(file, "".join(lesson.line() + "\n" for lesson in lessons))
    return InputError(
        f"{what}; the lessons of this step are in {file}, the adapter before it in {folder / 'adapter'}: "
        "mend or leave out a lesson that is odd, or lower train.learning_rate"
    )


def _truncate(metrics: Path, *, rows: int) -> None:
    """Keep the rows of steps that the saved state has seen; the others are run again."""
    if metrics.is_file():
        lines = metrics.read_text(encoding="utf-8").splitlines(keepends=True)[:rows]
        metrics.write_text("".join(lines), encoding="utf-8")
