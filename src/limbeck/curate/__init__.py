"""Prompts in, prompts out: gathered, near-duplicates joined into families, split without leaks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from pydantic import Field

from limbeck.curate.dedupe import with_families
from limbeck.curate.sources import AnySource, Source, Starter
from limbeck.curate.split import Shares, with_splits
from limbeck.protocols import Store
from limbeck.records import Prompt
from limbeck.spec import Spec

__all__ = ["CurateSettings", "curate"]


class CurateSettings(Spec):
    """Where prompts come from, what counts as nearly the same, and how they are split.

    `limit` keeps the first so many families of each source.
    """

    sources: tuple[AnySource, ...] = (Starter(),)
    alike: float = Field(default=0.9, gt=0, le=1)
    split: Shares = Shares()
    limit: int | None = Field(default=None, ge=1)


def curate(settings: CurateSettings, *, store: Store) -> Iterator[Prompt]:
    """The prompts of all sources with family and split."""
    gathered = [prompt for source in settings.sources for prompt in _limited(source, settings.limit)]
    joined = with_families(gathered, store.tools.encoder(), alike=settings.alike)
    yield from with_splits(joined, settings.split, seed=store.seed)


def _limited(source: Source, limit: int | None) -> Iterator[Prompt]:
    prompts = list(source.prompts())
    families: dict[str, dict[str, None]] = {}
    for prompt in prompts:
        families.setdefault(prompt.source, {})[prompt.family or prompt.id] = None
    kept = {name: set(islice(found, limit)) for name, found in families.items()}
    yield from (prompt for prompt in prompts if (prompt.family or prompt.id) in kept[prompt.source])
