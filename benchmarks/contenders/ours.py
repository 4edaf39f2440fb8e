"""Limbeck: one function for each work, through what its training loop calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar

import torch
from accelerate import Accelerator

import work
from limbeck import RunConfig, train
from limbeck.losses.cross_entropy import CrossEntropy
from limbeck.losses.divergence import Divergence
from limbeck.losses.forward_kl import ForwardKL
from limbeck.losses.jensen_shannon import JensenShannon
from limbeck.losses.reverse_kl import ReverseKL
from limbeck.models.local import Local
from limbeck.protocols import Continuation, TopK
from limbeck.records import Lesson, Message, Prompt
from limbeck.training import TrainSettings
from limbeck.training.batches import LessonEncoder
from limbeck.training.step import Forward, run_step
from limbeck.training.student import AdapterSettings, Student, StudentSettings

if TYPE_CHECKING:
    from worker import Meter

Item = TypeVar("Item")
MODEL = "smollm2-135m-instruct"


def divergence(beta: float) -> tuple[Divergence, float]:
    """Ours for this beta, and what makes it the peers': they do not divide by beta (1 - beta)."""
    if beta in (0, 1):
        return (ReverseKL() if beta else ForwardKL()), 1.0
    return JensenShannon(beta=beta), beta * (1 - beta)


def head(setting: work.Setting) -> work.Call:
    """The divergence from the teacher's hidden states, or from what a cache keeps of it."""
    inputs = work.head(setting)
    loss, scale = divergence(float(setting["beta"]))
    cached = TopK(*work.kept(inputs.teacher_NH, inputs.teacher_VH)) if setting["teacher"] == "cached" else None

    def call() -> work.Answer:
        student_NV = (inputs.student_NH @ inputs.student_VH.T).float().log_softmax(-1)
        if cached is not None:
            value_N = loss.between(student_NV, cached)
        else:
            with torch.no_grad():
                teacher_NV = (inputs.teacher_NH @ inputs.teacher_VH.T).float().log_softmax(-1)
            value_N = loss.of(teacher_NV, student_NV)
        return inputs.gradients(scale * value_N.mean())

    return call


def step(setting: work.Setting, batches: list[list[work.ChatRow]], meter: Meter) -> None:
    """The training loop's own step; a live teacher scores each step's lessons, a cached one has scored all before."""
    loss, _ = divergence(float(setting["beta"]))
    given = [[_lesson(row) for row in rows] for rows in batches]
    teacher = Local(model=MODEL, dtype=setting["dtype"])
    live = setting["teacher"] == "live"
    targets = {} if live else _scored(teacher, given)
    learner = Student(
        StudentSettings(model=MODEL, adapter=AdapterSettings(rank=16)),
        start_from=None,
        precision=setting["dtype"],
        seed=0,
    )
    encoder = LessonEncoder(learner.tokenizer, targets, wants=frozenset(loss.needs))
    accelerator = Accelerator(mixed_precision="no", cpu=True)
    forward, parameters = Forward(learner.model), learner.trainable()
    forward.train()
    optimizer = torch.optim.AdamW(parameters, lr=2e-4)
    with teacher.open() if live else nullcontext() as scorer:
        for number, lessons in enumerate(given):
            if live:
                targets.update(scorer.soft_targets(_told(lessons), top=work.TOP))
            examples = [encoder.example(lesson) for lesson in lessons]
            micro = list(encoder.micro_batches(examples, budget=TrainSettings().micro_batch_tokens))
            run_step(forward, (loss,), micro, parameters, accelerator, clip=1.0)
            optimizer.step()
            optimizer.zero_grad()
            meter.lap() if number else meter.start()


def _scored(teacher: Local, given: list[list[Lesson]]) -> dict[str, TopK]:
    """What a cache would hold; the teacher is gone from memory afterwards."""
    with teacher.open() as scorer:
        return dict(scorer.soft_targets(_told(chain.from_iterable(given)), top=work.TOP))


def _told(lessons: Iterable[Lesson]) -> list[Continuation]:
    return [Continuation(one.id, one.prompt.messages, one.reply or "", one.ends) for one in lessons]


def _lesson(row: work.ChatRow) -> Lesson:
    return Lesson(prompt=Prompt(messages=(Message(role="user", content=row.prompt),)), reply=row.reply)


class _Laps:
    """A lap for each step of the training; the first one warms up."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def track(self, label: str, items: Iterable[Item], *, total: int) -> Iterator[Item]:
        for number, item in enumerate(items):
            yield item
            if label.startswith("training"):
                self.meter.lap() if number else self.meter.start()

    def say(self, line: str) -> None:
        return None


def growth(setting: work.Setting, meter: Meter) -> int:
    """`limbeck.train` from a file of lessons, with a small random model; returns the tokens of the timed steps."""
    steps, batch, reply = (int(setting[name]) for name in ("steps", "batch", "reply"))
    config = RunConfig(
        student=StudentSettings(model=str(work.FILES / f"random-{setting['vocabulary']}")),
        train=TrainSettings(losses=(CrossEntropy(),), max_steps=steps + 1, batch_lessons=batch),
    )
    lessons = work.FILES / f"lessons-{setting['lessons']}-{reply}.jsonl"
    with TemporaryDirectory() as folder:
        train(config, lessons, Path(folder) / "run", progress=_Laps(meter))
    return steps * batch * reply
