"""Fidelity: how much the student's next-token distributions are the teacher's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import Field, field_validator

from limbeck.evaluation.spec import Evaluator, measurement
from limbeck.models import AnyModel
from limbeck.models.spec import ModelSpec
from limbeck.records import Measurement, Prompt, Trial, some
from limbeck.stats import mean


class Fidelity(Evaluator):
    """`kd_alignment` with the teacher, 1 − mean Jensen-Shannon divergence (base 2) of the next-token distributions, in
    [0, 1], and `top1_agreement`, the share of tokens whose likeliest next token is the same; means over replies.

    Read over the reference replies of `prompts` prompts, drawn by hash. Teacher and subject need one vocabulary, and
    are in memory together. The names are after arXiv:2510.27077, the definitions ours.
    """

    kind: Literal["fidelity"] = "fidelity"
    teacher: AnyModel
    prompts: int = Field(default=40, ge=1)

    @field_validator("teacher")
    @classmethod
    def _has_distributions(cls, teacher: ModelSpec) -> ModelSpec:
        if "distribution" not in teacher.offers:
            offers = ", ".join(sorted(teacher.offers))
            raise ValueError(
                f"fidelity needs a distribution, and a {teacher.kind} model offers {offers}; name a local model"
            )
        return teacher

    def wants(self, prompts: Sequence[Prompt], *, seed: int) -> Iterator[Trial]:
        told = [prompt for prompt in prompts if prompt.reference and not prompt.choices]
        for prompt in some(told, self.prompts, seed):
            yield Trial(prompt=prompt, subject="", asked="distribution")

    def measure(self, trials: Sequence[Trial]) -> Iterator[Measurement]:
        asked = [one for one in trials if one.asked == "distribution" and not one.sent]
        for at, name in enumerate(("kd_alignment", "top1_agreement")):
            values = [one.scores[at] for one in asked if one.scores]
            yield measurement(name, mean(values, bounds=(0, 1)), len(values), len(asked) - len(values))
