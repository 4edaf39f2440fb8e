"""Best of N: asked again and again, misspelt each time in another way."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from limbeck.attacks.spec import Attack, Attempt, reworded
from limbeck.records import Prompt

# Shares of words scrambled and of letters changed, after Hughes et al. 2024.
SCRAMBLED, TURNED, SHIFTED = 0.6, 0.6, 0.06


class BestOfN(Attack):
    """`n` samples at temperature 1, each of another scrambling, casing and misspelling of the prompt (after Hughes et
    al. 2024, arXiv:2412.03556). More samples make it stronger: compare only figures of the same n."""

    kind: Literal["best_of_n"] = "best_of_n"
    n: int = Field(default=8, ge=1)

    def attempts(self, prompt: Prompt, *, seed: int) -> Iterator[Attempt]:
        for number in range(1, self.n + 1):
            noise = random.Random(hashlib.sha256(f"{seed} {number} {prompt.id}".encode()).digest())
            words = " ".join(_scrambled(word, noise) for word in prompt.text.split(" "))
            text = "".join(_misspelt(letter, noise) for letter in words)
            yield Attempt(reworded(prompt, text), sample=number)


def _scrambled(word: str, noise: random.Random) -> str:
    """The word with its inner letters mixed, more often than not."""
    if len(word) < 4 or noise.random() > SCRAMBLED:
        return word
    return word[0] + "".join(noise.sample(word[1:-1], len(word) - 2)) + word[-1]


def _misspelt(letter: str, noise: random.Random) -> str:
    """The letter in the other case, or the next one of the alphabet."""
    if letter.isascii() and letter.isalpha():
        letter = letter.swapcase() if noise.random() < TURNED else letter
        letter = chr(ord(letter) + 1) if letter not in "zZ" and noise.random() < SHIFTED else letter
    return letter
