"""Four splits by family, so that nothing like an exam prompt is ever taught."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Self

from pydantic import Field, model_validator

from limbeck.records import Prompt
from limbeck.spec import Spec
from limbeck.taxonomy import Split

# From the split that nothing is ever learnt from to the one that is taught.
PROTECTED: tuple[Split, ...] = ("exam", "validation", "probe", "train")
MEASURED = PROTECTED[:2]


class Shares(Spec):
    """Share of the families that each split gets; they sum to 1."""

    train: float = Field(default=0.55, ge=0)
    probe: float = Field(default=0.15, ge=0)
    validation: float = Field(default=0.10, ge=0)
    exam: float = Field(default=0.20, ge=0)

    @model_validator(mode="after")
    def _sum_to_one(self) -> Self:
        whole = self.train + self.probe + self.validation + self.exam
        if abs(whole - 1) > 1e-6:
            raise ValueError(f"the shares sum to {whole:g}; make them sum to 1")
        return self


def with_splits(prompts: Sequence[Prompt], shares: Shares, *, seed: int) -> Iterator[Prompt]:
    """The prompts with their split, drawn by family within each harm and hardest tier.

    Multiple-choice items only measure: of them and what resembles them a quarter goes to validation, the rest to the
    exam. Any other family with a prompt whose split is given goes there whole; of several the one that is used least
    for learning.
    """
    families: dict[str, list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        families[prompt.family].append(prompt)
    strata: dict[tuple[str, ...], list[str]] = defaultdict(list)
    split_of: dict[str, Split] = {}
    for family, members in families.items():
        given = [prompt.split for prompt in members if prompt.split is not None]
        if any(prompt.choices for prompt in members):
            given = [split for split in given if split in MEASURED]
        if given:
            split_of[family] = min(given, key=PROTECTED.index)
        else:
            strata[_stratum(members)].append(family)
    for stratum, names in sorted(strata.items()):
        ordered = sorted(names, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
        only_measured = stratum[0] == "choices"
        split_of |= dict(zip(ordered, _splits(len(ordered), shares, only_measured=only_measured), strict=True))
    for prompt in prompts:
        yield prompt.model_copy(update={"split": split_of[prompt.family]})


def _stratum(members: Sequence[Prompt]) -> tuple[str, ...]:
    if any(prompt.choices for prompt in members):
        return ("choices",)
    hardest = min(members, key=lambda prompt: ("adversarial", "borderline", "safe").index(prompt.tier))
    return (hardest.harm or "none", hardest.tier)


def _splits(count: int, shares: Shares, *, only_measured: bool) -> Iterator[Split]:
    wanted: dict[Split, float] = {"validation": 0.25, "exam": 0.75}
    if not only_measured:
        wanted = {"train": shares.train, "probe": shares.probe, "validation": shares.validation, "exam": shares.exam}
    whole = sum(wanted.values())
    given = dict.fromkeys(wanted, 0)
    for number in range(1, count + 1):
        # Whoever is furthest behind its share comes next.
        split = max(wanted, key=lambda name: number * wanted[name] / whole - given[name])
        given[split] += 1
        yield split
