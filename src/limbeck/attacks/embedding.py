"""Embedding: the prompt's input embeddings are pushed away from refusing, by somebody who has the weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from limbeck.attacks.spec import Attack, Attempt
from limbeck.records import Prompt


class Embedding(Attack):
    """`steps` steps of projected gradient descent on the prompt's input embeddings lower the probability of the refusal
    openings; a token moves `reach` times the embeddings' mean length at most. White box: no text does the same, and it
    takes a local model (after Schwinn et al. 2024, arXiv:2402.09063)."""

    kind: Literal["embedding"] = "embedding"
    steps: int = Field(default=8, ge=1)
    reach: float = Field(default=0.5, gt=0)

    def attempts(self, prompt: Prompt, *, seed: int) -> Iterator[Attempt]:
        yield Attempt(prompt.messages)
