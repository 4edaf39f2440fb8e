"""Soft targets of several teachers at once: a mixture of their distributions, and how far they are apart.

Axes: M teachers, N reply tokens, H hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple

from limbeck.models.chat import check_same_vocabulary, reply_ids
from limbeck.models.local import HEAD_ROWS
from limbeck.models.reasoning import Reasoning, before_answer
from limbeck.models.spec import ModelSpec
from limbeck.protocols import Continuation, Spans, Target, WholeLabeller
from limbeck.records import Contested, Disagreement, Lesson
from limbeck.targets.mixture import begun_by, disagreement, mixed, stacked
from limbeck.teach.keep import Keep, joined
from limbeck.teach.settings import Mixture

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

# Tokens of a reply that are kept with what they are, those on which the teachers are furthest apart.
CONTESTED = 5
# Of the divergence at each token.
DECIMALS = 4


class Label(NamedTuple):
    """The soft target of one lesson, and how far its teachers are apart; None where one alone was heard."""

    lesson: str
    target: Target | Spans
    apart: Disagreement | None = None


def continuation(lesson: Lesson, reasons: Reasoning | None = None) -> Continuation:
    """The lesson's reply, to be scored after its prompt, with its reasoning where the student `reasons`."""
    text = before_answer(lesson, reasons) + (lesson.reply or "")
    return Continuation(lesson.id, lesson.prompt.messages, text, lesson.ends)


class Panel(NamedTuple):
    """The teachers of a mixture, all in memory."""

    mixture: Mixture
    members: Mapping[str, WholeLabeller]
    tokenizer: PreTrainedTokenizerBase
    keep: Keep
    reasons: Reasoning | None = None

    @classmethod
    @contextmanager
    def open(
        cls,
        mixture: Mixture,
        teachers: Sequence[ModelSpec],
        tokenizer: PreTrainedTokenizerBase,
        *,
        keep: Keep,
        reasons: Reasoning | None = None,
    ) -> Iterator[Panel]:
        """Until the block ends. Raises InputError where a teacher's ids mean other tokens than the student's."""
        members: dict[str, WholeLabeller] = {}
        with ExitStack() as stack:
            for teacher in teachers:
                model = stack.enter_context(teacher.open())
                assert isinstance(model, WholeLabeller)
                check_same_vocabulary(teacher, model.vocabulary, tokenizer)
                members[teacher.name] = model
            yield cls(mixture, members, tokenizer, keep, reasons)

    def labels(self, lessons: Sequence[Lesson]) -> Iterator[Label]:
        """The mixture behind each token of each reply that the contexts of all hold who are heard on it."""
        heard = {lesson.id: self.mixture.heard(lesson.prompt) for lesson in lessons}
        places = {
            name: dict(
                model.places([continuation(lesson, self.reasons) for lesson in lessons if name in heard[lesson.id]])
            )
            for name, model in self.members.items()
        }
        for lesson in lessons:
            found = {name: places[name].pop(lesson.id, None) for name in heard[lesson.id]}
            said = {name: hidden_NH for name, hidden_NH in found.items() if hidden_NH is not None}
            if len(said) == len(found):
                yield self._label(lesson, said)

    def _label(self, lesson: Lesson, places: Mapping[str, Tensor]) -> Label:
        """Whole distributions exist for a few tokens at a time."""
        import torch

        shares = self.mixture.shares(lesson.prompt)
        weights_M = torch.tensor([shares.get(name, 0.0) for name in places])
        targets: list[Target] = []
        apart: list[Tensor] = []
        # Who has the veto decides the reasoning too: what is refused is decided there.
        before = len(reply_ids(self.tokenizer, before_answer(lesson, self.reasons), ends=False))
        blocks = zip(*(hidden_NH.split(HEAD_ROWS) for hidden_NH in places.values()), strict=True)
        for number, block in enumerate(blocks):
            said = [self.members[name].logprobs(rows_NH) for name, rows_NH in zip(places, block, strict=True)]
            logprobs_MNV = stacked(said)
            mixed_NV = mixed(logprobs_MNV, weights_M.to(logprobs_MNV.device))
            if self.mixture.veto is not None:
                window = max(0, before + self.mixture.window - number * HEAD_ROWS)
                mixed_NV = begun_by(logprobs_MNV[list(places).index(self.mixture.veto)], mixed_NV, window=window)
            targets.append(self.keep.block(mixed_NV, lesson=lesson.id, first=number * HEAD_ROWS))
            if len(places) > 1:
                apart.append(disagreement(logprobs_MNV.exp()))
        found = self._apart(lesson, tuple(places), torch.cat(apart)) if apart else None
        return Label(lesson.id, joined(targets), found)

    def _apart(self, lesson: Lesson, teachers: tuple[str, ...], divergence_N: Tensor) -> Disagreement:
        tokens = reply_ids(self.tokenizer, continuation(lesson, self.reasons).reply, ends=lesson.ends)
        largest = divergence_N.argsort(descending=True, stable=True)[:CONTESTED].tolist()
        return Disagreement(
            lesson=lesson.id,
            teachers=teachers,
            mean=float(divergence_N.mean()),
            tokens=len(tokens),
            by_token=tuple(round(divergence, DECIMALS) for divergence in divergence_N.tolist()),
            largest=tuple(
                Contested(position=at, token=self.tokenizer.decode([tokens[at]]), divergence=float(divergence_N[at]))
                for at in largest
            ),
        )
