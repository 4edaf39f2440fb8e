"""Limbeck: one function for each work, through what its training loop calls."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor

import work
from limbeck.judges.grade import GradeSettings
from limbeck.losses.cross_entropy import CrossEntropy
from limbeck.losses.divergence import Divergence
from limbeck.losses.forward_kl import ForwardKL
from limbeck.losses.fused import Source, Work, block_rows, fused
from limbeck.losses.jensen_shannon import JensenShannon
from limbeck.losses.places import Places
from limbeck.losses.reverse_kl import ReverseKL
from limbeck.models.encoder import ModelTools
from limbeck.models.local import Local
from limbeck.models.products import projected
from limbeck.protocols import Continuation, TopK
from limbeck.records import ChoiceRequest, Lesson, Message, Prompt, Request, TargetSet
from limbeck.targets.cache import PART_LESSONS, Targets, write_part
from limbeck.training import TrainSettings
from limbeck.training.batches import LessonEncoder
from limbeck.training.lessons import LessonFile, LessonFiles, read_lessons
from limbeck.training.loop import train
from limbeck.training.objective import Objective
from limbeck.training.step import run_step
from limbeck.training.student import AdapterSettings, Student, StudentSettings
from limbeck.workspace import Workspace

if TYPE_CHECKING:
    from worker import Meter

Item = TypeVar("Item")
MODEL = "smollm2-135m-instruct"


def divergence(beta: float) -> tuple[Divergence, float]:
    """Ours for this beta, and what makes it the peers': they do not divide by beta (1 - beta)."""
    if beta in (0, 1):
        return (ReverseKL() if beta else ForwardKL()), 1.0
    return JensenShannon(beta=beta), beta * (1 - beta)


def matmul(setting: work.Setting) -> Callable[[], Tensor]:
    """A product of (M, K) and (K, N), as our linear layers multiply."""
    m, k, n = (int(setting[size]) for size in ("M", "K", "N"))
    dtype = getattr(torch, setting["dtype"])
    left_MK, right_NK = torch.ones((m, k), dtype=dtype), torch.ones((n, k), dtype=dtype)
    return lambda: projected(left_MK, right_NK)


class Weight(NamedTuple):
    """An output head of a weight alone."""

    weight_VH: Tensor
    bias_V: Tensor | None = None

    def logits(self, hidden_NH: Tensor) -> Tensor:
        return projected(hidden_NH, self.weight_VH).float()

    def before_scaling(self, slope_NV: Tensor, logits_NV: Tensor) -> Tensor:
        return slope_NV

    def onto_hidden(self, slope_NV: Tensor) -> Tensor:
        return projected(slope_NV.to(self.weight_VH.dtype), self.weight_VH.t())


def head(setting: work.Setting) -> work.Call:
    """The divergence from the teacher's hidden states, or from what a cache keeps of it."""
    inputs = work.head(setting)
    loss, scale = divergence(float(setting["beta"]))
    scale /= len(inputs.student_NH)
    sources = [Source(Weight(inputs.student_VH), inputs.student_NH)]
    parts = torch.arange(len(inputs.student_NH)).split(block_rows(len(inputs.student_VH), inputs.student_NH.device))
    if setting["teacher"] == "cached":
        cached = TopK(*work.kept(inputs.teacher_NH, inputs.teacher_VH))
        kept = [TopK(*(column[some] for column in cached)) for some in parts]
        works = [Work(one, (some,), one.ids_NK) for one, some in zip(kept, parts, strict=True)]
    else:
        sources.append(Source(Weight(inputs.teacher_VH), inputs.teacher_NH))
        works = [Work(None, (some, some)) for some in parts]

    def objective(teacher: TopK | None, said: Sequence[Places]) -> Tensor:
        value_N = loss.between(said[0], said[1].every() if teacher is None else teacher)
        return scale * value_N.sum()[None]

    return lambda: inputs.gradients(fused(objective, works, sources).sum())


def step(setting: work.Setting, batches: list[list[work.ChatRow]], meter: Meter) -> None:
    """The training loop's own step; a live teacher is read beside the student, a cached one has scored all lessons."""
    loss, _ = divergence(float(setting["beta"]))
    given = [[_lesson(row) for row in rows] for rows in batches]
    learner = Student(
        StudentSettings(model=MODEL, adapter=AdapterSettings(rank=16)),
        start_from=None,
        precision=setting["dtype"],
        seed=0,
    )
    accelerator = Accelerator(mixed_precision="no", cpu=True)
    parameters = learner.trainable()
    optimizer = torch.optim.AdamW(parameters, lr=2e-4)
    targets: dict[str, TopK] = {}
    with Local(model=MODEL, dtype=setting["dtype"]).open() as teacher:
        live = teacher if setting["teacher"] == "live" else None
        learner.share_with(teacher.weights)
        if live is None:
            lessons = [lesson for lessons in given for lesson in lessons]
            told = [Continuation(one.id, one.prompt.messages, one.reply or "", one.ends) for one in lessons]
            targets.update(teacher.soft_targets(told, top=work.TOP))
            # The cache is all that training needs of the teacher.
            del teacher.weights
        encoder = LessonEncoder(learner.tokenizer, targets, losses=(loss,), context=learner.context, live=live)
        objective = Objective(learner.model, (loss,), live=live)
        objective.train()
        for number, lessons in enumerate(given):
            examples = [encoder.example(lesson) for lesson in lessons]
            micro = list(encoder.micro_batches(examples, budget=TrainSettings().micro_batch_tokens))
            with learner.without_casts():
                run_step(objective, (loss,), micro, parameters, accelerator, clip=1.0)
            optimizer.step()
            optimizer.zero_grad()
            meter.lap() if number else meter.start()


def _lesson(row: work.ChatRow) -> Lesson:
    return Lesson(prompt=Prompt(messages=_asked(row)), reply=row.reply)


def generation(setting: work.Setting, rows: Sequence[work.Choices], meter: Meter) -> list[str]:
    """What teaching and evaluation ask for replies; the batches are ours."""
    asked = [Request(messages=_asked(row), max_tokens=int(setting["reply"])) for row in rows]
    with Local(model=MODEL, dtype=setting["dtype"]).open() as model:
        list(model.replies(asked[:2]))
        meter.start()
        said = {reply.request_id: reply.text for reply in model.replies(asked)}
        meter.lap()
    return [said[request.id] for request in asked]


def scoring(setting: work.Setting, rows: Sequence[work.Choices], meter: Meter) -> list[float]:
    """What multiple choice and the decision are measured with."""
    asked = [ChoiceRequest(messages=_asked(row), choices=row.choices) for row in rows]
    with Local(model=MODEL, dtype=setting["dtype"]).open() as model:
        list(model.choice_scores(asked[:1]))
        meter.start()
        found = {scores.request_id: scores.total for scores in model.choice_scores(asked)}
        meter.lap()
    return [total for request in asked for total in found[request.id]]


def _asked(row: work.ChatRow | work.Choices) -> tuple[Message, ...]:
    return (Message(role="user", content=row.prompt),)


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
    steps, batch, reply, cached = (int(setting[name]) for name in ("steps", "batch", "reply", "cached"))
    losses = (CrossEntropy(), ForwardKL()) if cached else (CrossEntropy(),)
    settings = TrainSettings(losses=losses, max_steps=steps + 1, batch_lessons=batch)
    student = StudentSettings(model=str(work.FILES / f"random-{setting['vocabulary']}"))
    files = LessonFiles(
        supervise="last", files=(LessonFile(path=work.FILES / f"lessons-{setting['lessons']}-{reply}.jsonl"),)
    )
    with TemporaryDirectory() as folder:
        kept = Workspace(Path(folder) / "run", seed=0, tools=ModelTools(), progress=_Laps(meter))
        with kept.open():
            lessons = kept.keep("lessons", read_lessons, files)
            targets = _written(lessons, Path(folder) / "targets", reply=reply, ids=cached) if cached else None
            kept.keep("checkpoint", train, settings, student, lessons, targets, None, (), GradeSettings(), None)
    return steps * batch * reply


def _written(lessons: Sequence[Lesson], folder: Path, *, reply: int, ids: int) -> TargetSet:
    """A cache of soft targets of so many ids a token, the same for every lesson: it is read for its size alone."""
    logprobs_NK = torch.full((reply, ids), 0.9 / ids).log()
    target = TopK(torch.arange(ids).expand(reply, ids), logprobs_NK, torch.full((reply,), 0.1).log())
    folder.mkdir()
    names = (lesson.id for lesson in lessons)
    for number in range(math.ceil(len(lessons) / PART_LESSONS)):
        some = [(name, target) for name in islice(names, PART_LESSONS)]
        write_part(Targets.part(folder, number=number), some)
    return TargetSet(folders=(folder,), lessons=len(lessons), key="made")
