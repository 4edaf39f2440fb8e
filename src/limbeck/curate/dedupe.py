"""Near-duplicate families: prompts that say nearly the same must fall into the same split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from limbeck.errors import InputError
from limbeck.protocols import Encoder
from limbeck.records import Prompt


def with_families(prompts: Sequence[Prompt], encoder: Encoder | None, *, alike: float) -> list[Prompt]:
    """The distinct prompts, each with a family that it shares with its twin and its near-duplicates.

    Two prompts are near-duplicates where the cosine of their embeddings reaches `alike`; families that hold
    near-duplicates of one another become one. Without an encoder nothing is compared: an estimate. Exact repeats (same
    chat and choices) are left out; raises InputError where two of them ask for different conduct.
    """
    families = [prompt.family or f"own-{prompt.id}" for prompt in prompts]
    merged = _Union(sorted(set(families)))
    first: dict[str, int] = {}
    for at, prompt in enumerate(prompts):
        before = first.setdefault(prompt.id, at)
        if (other := prompts[before]).conduct != prompt.conduct:
            raise InputError(
                f"'{prompt.text[:60]}' stands in {other.source} with conduct {other.conduct} and in {prompt.source} "
                f"with {prompt.conduct}; keep one of them"
            )
        merged.join(families[before], families[at])
    distinct = [prompts[at] for at in first.values()]
    pairs = _near_duplicates([prompt.text for prompt in distinct], encoder, alike) if encoder is not None else ()
    for left, right in pairs:
        merged.join(families[first[distinct[left].id]], families[first[distinct[right].id]])
    return [prompts[at].model_copy(update={"family": merged.name(families[at])}) for at in first.values()]


def _near_duplicates(texts: Sequence[str], encoder: Encoder, alike: float) -> Iterator[tuple[int, int]]:
    """Every pair of positions whose texts are nearly the same: all of them, for one missed pair is a leak."""
    from sklearn.neighbors import NearestNeighbors

    if len(texts) < 2:
        return
    vectors = encoder.encode(texts, exact=True)
    index = NearestNeighbors(radius=1 - alike, metric="cosine").fit(vectors)
    for one, others in enumerate(index.radius_neighbors(vectors, return_distance=False)):
        yield from ((one, int(other)) for other in others if one < other)


class _Union:
    """Which families have become one; the first name in order stands for all."""

    def __init__(self, names: Sequence[str]) -> None:
        self.parent = {name: name for name in names}

    def name(self, family: str) -> str:
        while self.parent[family] != family:
            family = self.parent[family]
        return family

    def join(self, first: str, second: str) -> None:
        low, high = sorted((self.name(first), self.name(second)))
        self.parent[high] = low
