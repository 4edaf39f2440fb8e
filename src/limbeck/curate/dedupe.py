"""Near-duplicate families: prompts that say nearly the same must fall into the same split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from limbeck.protocols import Encoder
from limbeck.records import Prompt


def with_families(prompts: Sequence[Prompt], encoder: Encoder, *, alike: float) -> list[Prompt]:
    """The distinct prompts, each with a family that it shares with its twin and its near-duplicates.

    Two prompts are near-duplicates where the cosine of their embeddings reaches `alike`; families that hold
    near-duplicates of one another become one. Exact repeats (same chat, choices and conduct) are left out.
    """
    distinct = list({prompt.id: prompt for prompt in prompts}.values())
    families = [prompt.family or f"own-{prompt.id}" for prompt in distinct]
    merged = _Union(sorted(set(families)))
    for first, second in _near_duplicates([prompt.text for prompt in distinct], encoder, alike):
        merged.join(families[first], families[second])
    return [
        prompt.model_copy(update={"family": merged.name(family)})
        for prompt, family in zip(distinct, families, strict=True)
    ]


def _near_duplicates(texts: Sequence[str], encoder: Encoder, alike: float) -> list[tuple[int, int]]:
    from semhash import SemHash

    rows: list[dict[str, Any]] = [{"text": text, "at": str(at)} for at, text in enumerate(texts)]
    like_theirs: Any = encoder
    index = SemHash.from_records(rows, columns=["text"], model=like_theirs)
    found = index.self_deduplicate(threshold=alike).filtered
    return [(int(one.record["at"]), int(other["at"])) for one in found for other, _ in one.duplicates]


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
