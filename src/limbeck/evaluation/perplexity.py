"""Perplexity: how far from its own words the subject finds good replies."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

from limbeck.evaluation.spec import Evaluator, measurement
from limbeck.records import Measurement, Prompt, Trial
from limbeck.stats import Figure, mean


class Perplexity(Evaluator):
    """`perplexity` of the reference replies to harmless prompts: exp of the mean over replies of the nats per token.

    It compares models of one vocabulary alone: a token of another is another piece of text.
    """

    kind: Literal["perplexity"] = "perplexity"

    def wants(self, prompts: Sequence[Prompt], *, seed: int) -> Iterator[Trial]:
        for prompt in prompts:
            if prompt.conduct == "answer" and prompt.reference:
                yield Trial(prompt=prompt, subject="", asked="reference")

    def measure(self, trials: Sequence[Trial]) -> Iterator[Measurement]:
        asked = [one for one in trials if one.asked == "reference"]
        nats = [-one.scores[0] for one in asked if one.scores]
        figure = Figure(*(None if end is None else math.exp(end) for end in mean(nats)))
        yield measurement("perplexity", figure, len(nats), len(asked) - len(nats))
