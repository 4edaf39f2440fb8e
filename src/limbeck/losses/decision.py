"""The decision: whether to refuse a prompt, taught without a reply."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from limbeck.losses.spec import Labels, Loss, Passes, Refusal, Units
from limbeck.taxonomy import REFUSAL_OPENINGS


class Decision(Loss):
    """Bernoulli cross-entropy between a prompt's risk r and the student's probability of refusing, nats.

    -τ [r log q₁ + h (1 - r) log(1 - q)], q the mass of the refusal openings at the start of the reply and q₁ that of
    `refuse_with` alone, both decoded at the temperature τ. No reply is needed, so it can be taught on many more prompts
    than there are replies. At τ = h = 1 its least value is the entropy of r, where q = q₁ = r.

    Greedy decoding refuses once the likeliest opening beats the likeliest answer, long before refusals have half of
    the mass, because answers open in many more ways; the lower τ, the nearer q is to what is decoded. τ in front
    keeps the gradient of a prompt on the wrong side the same at every temperature. Refusals are drawn to one opening
    because the others would otherwise win by how the base happens to like them, and are rarely followed by a reason;
    `refuse_with` begins with it and may go on, so that a prompt without a reply teaches how a refusal goes on, too.
    h is what refusing a harmless prompt costs against answering a harmful one (Elkan 2001, cost-sensitive learning).
    `openings` is how many of the refusal openings q counts, the commonest first: each is read after every prompt, and
    the last ones have next to no mass.

    With `within` above 0 it is taken once more in the midst of an answer that is due, after one to so many of its
    first tokens and the end of a phrase, with a risk of 0 there: taught at the start alone, a student whose first
    words answer goes on to refuse. With `recover` the first rejected reply to what must be refused is broken off
    there, too, with a risk of 1, so that a student which is made to begin an unsafe answer does not go on. Such a
    lesson has two units. Ours; docs/notebook.md has the measurements behind it. After Qi et al. 2024
    (arXiv:2406.05946), who teach refusals beyond the first tokens.
    """

    kind: Literal["decision"] = "decision"
    temperature: float = Field(default=1.0, gt=0)
    harmless_cost: float = Field(default=1.0, gt=0)
    refuse_with: str = REFUSAL_OPENINGS[0]
    openings: int = Field(default=len(REFUSAL_OPENINGS), ge=1, le=len(REFUSAL_OPENINGS))
    within: int = Field(default=0, ge=0)
    recover: bool = False
    needs = frozenset({"risk"})
    over = "prompts"

    @field_validator("refuse_with")
    @classmethod
    def _begins_as_counted(cls, words: str) -> str:
        if not words.startswith(REFUSAL_OPENINGS[0]):
            raise ValueError(f"must begin with {REFUSAL_OPENINGS[0]!r}, the opening that refusals are drawn to")
        return words

    @model_validator(mode="after")
    def _recovers_somewhere(self) -> Self:
        if self.recover and not self.within:
            raise ValueError("recover: true needs tokens after which to recover; set within to 1 or more")
        return self

    @property
    def refusal(self) -> Refusal:
        return Refusal(self.refuse_with, self.openings, self.within, self.recover)

    def __call__(self, passes: Passes, labels: Labels) -> Units:
        said = passes.openings.refusing(self.temperature, openings=self.openings)
        due_B = labels.risk_B * (said.first_B + said.rest_B)
        harmless_B = (1 - labels.risk_B) * said.answers_B
        return Units(-self.temperature * (due_B + self.harmless_cost * harmless_B), self.weights(labels))
