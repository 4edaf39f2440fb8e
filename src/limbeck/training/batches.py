"""Lessons as token trees: each prompt once, with its refusal openings, its reply and the replies to avoid."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from limbeck.losses.spec import Labels
from limbeck.models.chat import end_of_turn, prompt_ids, reply_ids
from limbeck.models.tree import Tree, TreeBatch, collate, packed, tree_length
from limbeck.protocols import TopK
from limbeck.records import Lesson
from limbeck.taxonomy import REFUSAL_OPENINGS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Example(NamedTuple):
    """A lesson as token ids; `reply` and `rejected` are empty where the lesson has none."""

    lesson: Lesson
    prompt: list[int]
    reply: list[int]
    rejected: list[list[int]]


class MicroBatch(NamedTuple):
    """One forward pass: the trees, the labels, and which scored tokens belong to which loss.

    `openings_BO` are the scored tokens of refusal openings for each deciding prompt, `opening_O` the tokens
    themselves and `opening_sizes` how many of them each opening has.
    """

    trees: TreeBatch
    labels: Labels
    taught_N: Tensor
    rejected_R: Tensor
    openings_BO: Tensor
    opening_O: Tensor
    opening_sizes: tuple[int, ...]
    teacher: TopK


class LessonEncoder:
    """Turns lessons into examples and examples into batches."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, targets: Mapping[str, TopK], *, wants: frozenset[str]
    ) -> None:
        self.tokenizer = tokenizer
        self.targets = targets
        self.wants = wants
        self.openings = [reply_ids(tokenizer, opening, ends=False) for opening in REFUSAL_OPENINGS]
        self.pad = end_of_turn(tokenizer)

    def example(self, lesson: Lesson) -> Example:
        """The lesson's tokens, as far as a loss wants them."""
        learns = lesson.reply is not None and self.wants & {"reply", "distribution"}
        reply = reply_ids(self.tokenizer, lesson.reply or "", ends=lesson.ends) if learns else []
        avoided = [reply_ids(self.tokenizer, text, ends=False) for text in lesson.rejected]
        rejected = [tokens for tokens in avoided if tokens] if "rejected" in self.wants else []
        return Example(lesson, prompt_ids(self.tokenizer, lesson.prompt.messages), reply, rejected)

    def tree(self, example: Example) -> Tree:
        """Prompt and branches: openings first, then the reply, then what to avoid."""
        openings = self.openings if self._decides(example) else []
        return Tree(example.prompt, [*openings, *([example.reply] if example.reply else []), *example.rejected])

    def _decides(self, example: Example) -> bool:
        return "risk" in self.wants and example.lesson.risk is not None

    def micro_batches(self, examples: Sequence[Example], *, budget: int) -> Iterator[MicroBatch]:
        """The examples of one step in batches of at most `budget` tokens, padding included."""
        useful = [example for example in examples if self.tree(example).branches]
        lengths = [tree_length(self.tree(example)) for example in useful]
        for rows in packed(lengths, budget=budget):
            yield self._batch([[useful[item] for item in row] for row in rows])

    def _batch(self, rows: Sequence[Sequence[Example]]) -> MicroBatch:
        trees = collate([[self.tree(example) for example in row] for row in rows], pad=self.pad)
        taught: list[int] = []
        rejected: list[int] = []
        openings: list[range] = []
        opening_O = [token for tokens in self.openings for token in tokens]
        risks: list[float | None] = []
        weights, rejected_weights, known, teachers = [], [], [], []
        at = 0
        for example in chain.from_iterable(rows):
            lesson = example.lesson
            if self._decides(example):
                openings.append(range(at, at + len(opening_O)))
                at += len(opening_O)
                risks.append(lesson.risk)
            if example.reply:
                taught += range(at, at + len(example.reply))
                at += len(example.reply)
                weights += [lesson.weight] * len(example.reply)
                target = self.targets.get(lesson.id) if "distribution" in self.wants else None
                known += [target is not None] * len(example.reply)
                teachers.append((len(example.reply), target))
            for tokens in example.rejected:
                rejected += range(at, at + len(tokens))
                at += len(tokens)
                rejected_weights += [1.0] * len(tokens)
        tokens_N = trees.scored.token_N
        taught_N, rejected_R = (torch.tensor(rows, dtype=torch.long) for rows in (taught, rejected))
        labels = Labels(
            tokens_N=tokens_N[taught_N],
            weight_N=torch.tensor(weights),
            taught_N=torch.tensor(known, dtype=torch.bool),
            rejected_R=tokens_N[rejected_R],
            rejected_weight_R=torch.tensor(rejected_weights),
            risk_B=torch.tensor(risks, dtype=torch.float32),
            risk_weight_B=torch.ones(len(risks)),
        )
        return MicroBatch(
            trees,
            labels,
            taught_N,
            rejected_R,
            torch.tensor([list(one) for one in openings], dtype=torch.long).view(len(openings), len(opening_O)),
            torch.tensor(opening_O),
            tuple(map(len, self.openings)),
            _stacked(teachers),
        )


def _stacked(teachers: Sequence[tuple[int, TopK | None]]) -> TopK:
    """The targets of all replies one after the other; a reply without one gets rows that no loss reads."""
    top = next((target.ids_NK.shape[1] for _, target in teachers if target is not None), 1)
    parts = []
    for length, target in teachers:
        if target is None:
            parts.append(
                TopK(torch.zeros((length, top), dtype=torch.long), torch.zeros((length, top)), torch.zeros(length))
            )
        elif len(target.tail_N) != length:
            raise AssertionError(f"a reply of {length} tokens has soft targets for {len(target.tail_N)}")
        else:
            parts.append(target)
    if not parts:
        return TopK(torch.zeros((0, 1), dtype=torch.long), torch.zeros((0, 1)), torch.zeros(0))
    return TopK(*(torch.cat(column) for column in zip(*parts, strict=True)))


def in_order(lessons: Sequence[Lesson], *, seed: int, epoch: int) -> list[Lesson]:
    """The lessons of one epoch: families shuffled by a hash, so that the order hangs on nothing else, and the
    lessons of a family one after the other, so that a step sees a harmful prompt beside its twin."""

    def place(name: str) -> bytes:
        return hashlib.sha256(f"{seed} {epoch} {name}".encode()).digest()

    return sorted(lessons, key=lambda lesson: (place(lesson.prompt.family), place(lesson.id)))
