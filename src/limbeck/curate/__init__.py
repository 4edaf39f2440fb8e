"""Prompts in, prompts out: gathered, near-duplicates joined into families, split without leaks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from limbeck.curate.dedupe import with_families
from limbeck.curate.reworded import Reworded
from limbeck.curate.sources import AnySource, Source, Starter
from limbeck.curate.split import Shares, with_splits
from limbeck.protocols import Store
from limbeck.records import Prompt
from limbeck.spec import Spec
from limbeck.taxonomy import Split

__all__ = ["CurateSettings", "curate", "planned", "split_counts"]

EMBEDDED_AT_ONCE = 128


class CurateSettings(Spec):
    """Where prompts come from, what counts as nearly the same, and how they are split.

    `limit` keeps the first so many families of each source; some training prompts may be `reworded`.
    """

    sources: tuple[AnySource, ...] = (Starter(),)
    alike: float = Field(default=0.9, gt=0, le=1)
    split: Shares = Shares()
    limit: int | None = Field(default=None, ge=1)
    reworded: Reworded | None = None


def curate(settings: CurateSettings, *, store: Store) -> Iterator[Prompt]:
    """The prompts of all sources with family and split."""
    joined = with_families(_gathered(settings), _Shown(store), alike=settings.alike)
    yield from _placed(settings, joined, seed=store.seed)


def planned(settings: CurateSettings, *, seed: int) -> list[Prompt]:
    """What `curate` gives, but for families that are joined by near-duplicates: those take an encoder to find."""
    named = with_families(_gathered(settings), None, alike=settings.alike)
    return list(_placed(settings, named, seed=seed))


def _placed(settings: CurateSettings, prompts: Sequence[Prompt], *, seed: int) -> Iterator[Prompt]:
    """The prompts in their splits, as they are asked there."""
    for prompt in with_splits(prompts, settings.split, seed=seed):
        yield prompt if settings.reworded is None else settings.reworded(prompt, seed=seed)


def _gathered(settings: CurateSettings) -> list[Prompt]:
    return [prompt for source in settings.sources for prompt in _limited(source, settings.limit)]


def split_counts(prompts: Iterable[Prompt]) -> Iterator[str]:
    """A line for each source, the starter set as one: how many of its prompts are in which split."""
    counts: dict[str, Counter[Split | None]] = {}
    for prompt in prompts:
        source = Starter().kind if prompt.source.startswith(f"{Starter().kind}/") else prompt.source
        counts.setdefault(source, Counter())[prompt.split] += 1
    for source, of in counts.items():
        yield f"prompts of {source}: " + ", ".join(f"{split} {of[split]}" for split in get_args(Split))


class _Shown:
    """The encoder, with a bar."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def encode(self, texts: Sequence[str], *, exact: bool = False) -> NDArray[np.float32]:
        encoder = self.store.tools.encoder()
        # Texts of about the same length pad one another less.
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        parts = [order[at : at + EMBEDDED_AT_ONCE] for at in range(0, len(order), EMBEDDED_AT_ONCE)]
        shown = self.store.progress("comparing prompts, blocks", parts, total=len(parts))
        vectors = np.concatenate([encoder.encode([texts[at] for at in part], exact=exact) for part in shown])
        return vectors[np.argsort(order)]


def _limited(source: Source, limit: int | None) -> Iterator[Prompt]:
    prompts = list(source.prompts())
    families: dict[str, dict[str, None]] = {}
    for prompt in prompts:
        families.setdefault(prompt.source, {})[prompt.family_or_self] = None
    kept = {name: set(islice(found, limit)) for name, found in families.items()}
    yield from (prompt for prompt in prompts if prompt.family_or_self in kept[prompt.source])
