"""The lessons of a training. They stay on disk; in memory are a few bytes of each.

Axes: N lessons of a pool, A all that there are.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np
from numpy.typing import NDArray

from limbeck.records import Lesson
from limbeck.taxonomy import TIERS, Tier

Indices = NDArray[np.int32]
Drawn = NDArray[np.uint32]
Flags = NDArray[np.bool_]


def drawn(text: str) -> int:
    """A number below 2^32 that hangs on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def mixed(drawn_N: Drawn, by: str) -> Drawn:
    """The numbers as others that hang on them and on `by`, different ones still apart.

    After the finalizer of MurmurHash3 (Appleby 2011).
    """
    mixed_N = drawn_N ^ np.uint32(drawn(by))
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        mixed_N ^= mixed_N >> np.uint32(shift)
        mixed_N *= np.uint32(factor)
    return mixed_N


@dataclass(frozen=True, eq=False)
class Pool(Sequence[Lesson]):
    """Some of the lessons in some order, each read when it is asked for; `at_N` is its place among all.

    Of all are known: numbers drawn from id and family, whether the prompt is to be refused, whether it has a reply,
    whether the prompt is no variant of another, its tier, and the place of the harm that it refuses among the names of
    all such harms, from 1, and 0 where it refuses none.
    """

    lessons: Sequence[Lesson]
    ids_A: Drawn
    families_A: Drawn
    refused_A: Flags
    answered_A: Flags
    unvaried_A: Flags
    tiers_A: NDArray[np.uint8]
    harms_A: NDArray[np.uint8]
    harm_names: tuple[str, ...]
    at_N: Indices

    @classmethod
    def of(cls, lessons: Sequence[Lesson]) -> Pool:
        """All of the lessons in their own order, each read once."""
        ids, families, known, tiers = array("I"), array("I"), bytearray(), bytearray()
        harms, names = bytearray(), dict[str | None, int]({None: 0})
        for lesson in lessons:
            ids.append(drawn(lesson.id))
            families.append(drawn(lesson.prompt.family_or_self))
            tiers.append(TIERS.index(lesson.prompt.tier))
            harms.append(names.setdefault(lesson.prompt.refused_harm, len(names)))
            known += bytes((lesson.prompt.conduct == "refuse", lesson.reply is not None, lesson.prompt.root is None))
        refused_A, answered_A, unvaried_A = np.asarray(known).view(np.bool_).reshape(-1, 3).T
        return cls(
            lessons,
            np.asarray(ids, np.uint32),
            np.asarray(families, np.uint32),
            refused_A,
            answered_A,
            unvaried_A,
            np.asarray(tiers),
            np.asarray(harms),
            tuple(name for name in names if name is not None),
            np.arange(len(ids), dtype=np.int32),
        )

    def __len__(self) -> int:
        return len(self.at_N)

    @property
    def harms(self) -> frozenset[str]:
        """The harms that any of them refuses."""
        return frozenset(self.harm_names[at - 1] for at in np.unique(self.harms_A[self.at_N]).tolist() if at)

    @overload
    def __getitem__(self, index: int) -> Lesson: ...
    @overload
    def __getitem__(self, index: slice) -> Pool: ...
    def __getitem__(self, index: int | slice) -> Lesson | Pool:
        if isinstance(index, slice):
            return replace(self, at_N=self.at_N[index])
        return self.lessons[int(self.at_N[index])]

    def only(self, kept: Iterable[bool]) -> Pool:
        """The lessons of which this is true, one truth for each."""
        return replace(self, at_N=self.at_N[np.fromiter(kept, np.bool_, count=len(self))])

    def of_tiers(self, tiers: Sequence[Tier]) -> Pool:
        """The lessons on prompts of these tiers."""
        wanted = np.isin(self.tiers_A[self.at_N], [TIERS.index(tier) for tier in tiers])
        return replace(self, at_N=self.at_N[wanted])

    def new_first(self, *, seed: int) -> Pool:
        """The variants of other prompts before the rest, both shuffled."""
        return self._sorted(mixed(self.ids_A[self.at_N], f"{seed}"), self.unvaried_A[self.at_N])

    def in_order(self, *, seed: int, epoch: int) -> Pool:
        """The lessons of one epoch: families shuffled by a hash, so that the order hangs on nothing else, and the
        lessons of a family one after the other, so that a step sees a harmful prompt beside its twin."""
        by = f"{seed} {epoch}"
        return self._sorted(mixed(self.ids_A[self.at_N], by), mixed(self.families_A[self.at_N], by))

    def _sorted(self, *keys_N: NDArray[np.generic]) -> Pool:
        """Sorted by the last of the keys, equal ones by the one before it."""
        return replace(self, at_N=self.at_N[np.lexsort(keys_N)])


class Plan:
    """The lessons of each step: epoch after epoch, each in an order of its own, none left out."""

    def __init__(self, pool: Pool, *, batch: int, seed: int) -> None:
        self.batch = batch
        self.seed = seed
        self.epoch = 0
        self.pool = self.now = pool.in_order(seed=seed, epoch=0)

    def step(self, number: int) -> list[Lesson]:
        """Those of the step, from 0."""
        return [self._lesson(place) for place in range(number * self.batch, (number + 1) * self.batch)]

    def _lesson(self, place: int) -> Lesson:
        epoch, at = divmod(place, len(self.pool))
        if epoch != self.epoch:
            self.epoch, self.now = epoch, self.pool.in_order(seed=self.seed, epoch=epoch)
        return self.now[at]


class Neighbours:
    """What each lesson of a pool is compared with: always the same ones, chosen by hash."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        refused_N = pool.refused_A[pool.at_N]
        self.by_side = {"refuse": _where(refused_N), "answer": _where(~refused_N)}
        self.answered = _where(pool.answered_A[pool.at_N])
        families_N = pool.families_A[pool.at_N]
        self.by_family = {side: at[np.argsort(families_N[at], kind="stable")] for side, at in self.by_side.items()}
        self.families = {side: families_N[at] for side, at in self.by_family.items()}

    def beside(self, lesson: Lesson) -> list[Lesson]:
        """One that wants the same conduct, then the twin where there is one, then one more that wants the other;
        empty where no other lesson wants the same."""
        mine, other = ("refuse", "answer") if lesson.prompt.conduct == "refuse" else ("answer", "refuse")
        alike = self._chosen(lesson, self.by_side[mine], "alike")
        apart = self._chosen(lesson, self.by_side[other], "apart")
        if alike is None or apart is None:
            return []
        return [alike, *self._twin(lesson.prompt.family_or_self, other), apart]

    def foreign(self, lesson: Lesson) -> Lesson | None:
        """Another lesson with a reply."""
        return self._chosen(lesson, self.answered, "foreign", says=lesson.reply)

    def _twin(self, family: str, side: str) -> list[Lesson]:
        """The first lesson of the family that wants this."""
        number = np.uint32(drawn(family))
        first, after = (int(np.searchsorted(self.families[side], number, end)) for end in ("left", "right"))
        found = (self.pool[int(at)] for at in self.by_family[side][first:after])
        # Two families may have one number.
        return [lesson for lesson in found if lesson.prompt.family_or_self == family][:1]

    def _chosen(self, lesson: Lesson, among: Indices, what: str, *, says: str | None = None) -> Lesson | None:
        """The first by hash that is of another family, and replies otherwise than what is said."""
        start = int.from_bytes(hashlib.sha256(f"{what} {lesson.id}".encode()).digest()[:6], "big")
        # The next one in the rare case that the first is of the same family.
        for step in range(min(8, len(among))):
            one = self.pool[int(among[(start + step) % len(among)])]
            if one.prompt.family_or_self != lesson.prompt.family_or_self and (says is None or one.reply != says):
                return one
        return None


def _where(flags_N: Flags) -> Indices:
    return np.flatnonzero(flags_N).astype(np.int32)
