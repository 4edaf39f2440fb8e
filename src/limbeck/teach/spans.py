"""Lessons in, soft targets out, of teachers whose tokenizer is not the student's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from limbeck.models.chat import reply_ids
from limbeck.models.local import HEAD_ROWS, Local
from limbeck.models.references import load_tokenizer, resolve
from limbeck.models.spec import ModelSpec
from limbeck.models.spelling import Spelling
from limbeck.protocols import Spans, Store, Target, Tools, TopK, WholeLabeller
from limbeck.records import Lesson, TargetSet
from limbeck.targets.cache import SpanTargets, write_spans
from limbeck.targets.spans import Span, aligned, spans_of
from limbeck.teach.keep import Keep, joined
from limbeck.teach.mixture import Label, continuation
from limbeck.teach.score import Form, Labels, in_turn, scored
from limbeck.teach.settings import TeachSettings

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


def score_spans(
    settings: TeachSettings, student: Local, lessons: Sequence[Lesson], before: TargetSet | None, *, store: Store
) -> TargetSet:
    """Soft targets as `score` makes them, in the student's tokens whatever the teacher's are.

    A reply that both tokenizers do not spell alike has none, either. Raises InputError for a tokenizer whose
    tokens spell no text.
    """
    return scored(Form(SpanTargets, write_spans, _across), settings, student, lessons, before, store=store)


@contextmanager
def _across(labeller: ModelSpec, student: Local, keep: Keep, tools: Tools) -> Iterator[Labels]:
    with labeller.open() as model:
        assert isinstance(model, WholeLabeller)
        yield in_turn(Translator.between(model, load_tokenizer(resolve(student.model)), keep=keep).labels)


class Reading(NamedTuple):
    """A reply's ids in both tokenizers, and the spans into which both can be cut; none where there are none."""

    student: list[int]
    teacher: list[int]
    spans: list[Span]


class Translator(NamedTuple):
    """A teacher, both tokenizers, and for the teacher's ids the student's that stand for the same."""

    model: WholeLabeller
    tokenizer: PreTrainedTokenizerBase
    theirs: Spelling
    mine: Spelling
    counterparts: dict[int, int]
    keep: Keep

    @classmethod
    def between(cls, model: WholeLabeller, tokenizer: PreTrainedTokenizerBase, *, keep: Keep) -> Translator:
        """What puts the distributions of a teacher into the ids of a tokenizer."""
        theirs, mine = (Spelling.of_tokenizer(one) for one in (model.tokenizer, tokenizer))
        return cls(model, tokenizer, theirs, mine, theirs.counterparts(mine), keep)

    def labels(self, lessons: Sequence[Lesson]) -> Iterator[Label]:
        """The distributions at the start of each span of each reply that can be cut into spans."""
        read = {lesson.id: self.read(lesson) for lesson in lessons}
        told = [
            continuation(lesson)._replace(ends=lesson.ends and self.theirs.knows_ends)
            for lesson in lessons
            if read[lesson.id].spans
        ]
        for name, hidden_MH in self.model.places(told):
            yield Label(name, self._target(name, read[name], hidden_MH))

    def read(self, lesson: Lesson) -> Reading:
        """The reply in both tokenizers. Its end is a span where the teacher was told of ends: a base model does not end
        its turn but begins the next one."""
        student, teacher = (
            reply_ids(one, lesson.reply or "", ends=False) for one in (self.tokenizer, self.model.tokenizer)
        )
        spans = aligned(self.mine.spelt(student), self.theirs.spelt(teacher))
        if lesson.ends and spans and self.theirs.knows_ends:
            spans.append(Span(range(len(student), len(student) + 1), range(len(teacher), len(teacher) + 1)))
            teacher.append(self.theirs.end)
        return Reading([*student, self.mine.end] if lesson.ends else student, teacher, spans)

    def _target(self, lesson: str, reading: Reading, hidden_MH: Tensor) -> Spans:
        """Whole distributions exist for a few tokens at a time."""
        import torch

        kept: list[Target] = []
        said: list[Tensor] = []
        ids_M = torch.tensor(reading.teacher, device=hidden_MH.device)
        blocks = zip(hidden_MH.split(HEAD_ROWS), ids_M.split(HEAD_ROWS), strict=True)
        for number, (rows_MH, written_M) in enumerate(blocks):
            logprobs_MV = self.model.logprobs(rows_MH)
            kept.append(self.keep.block(logprobs_MV, lesson=lesson, first=number * HEAD_ROWS))
            said.append(logprobs_MV.gather(1, written_M[:, None])[:, 0])
        top = joined(kept)
        assert isinstance(top, TopK)
        return spans_of(
            reading.spans,
            top,
            torch.cat(said).cpu(),
            student=reading.student,
            teacher=reading.teacher,
            counterparts=self.counterparts,
        )
