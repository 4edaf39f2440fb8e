"""The noise under which a student must keep to what it says without."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from limbeck.spec import Spec

Rewrite = Literal["typos", "casing", "paraphrase", "order"]


class Noise(Spec):
    """What is disturbed, how far, and in which direction.

    `embedding` and `hidden` (after `layer`) add a vector to each token's state, `epsilon` times as long as the state
    is. `random` draws its direction, `vat` takes the one in which the student's answer changes most (one ascent step
    from a small random one), `pgd` climbs `steps` times within that distance. `text` writes the prompt
    otherwise, another way each time, and has neither distance nor direction: `rewrites` are the kinds of rewriting.
    """

    on: Literal["embedding", "hidden", "text"] = "embedding"
    direction: Literal["random", "vat", "pgd"] = "random"
    epsilon: float = Field(default=0.05, gt=0)
    steps: int = Field(default=3, ge=1)
    layer: int = Field(default=0, ge=0)
    rewrites: tuple[Rewrite, ...] = Field(default=("typos", "casing", "paraphrase"), min_length=1)

    @model_validator(mode="after")
    def _says_nothing_in_vain(self) -> Self:
        vain = {"direction", "epsilon", "steps", "layer"} if self.on == "text" else {"rewrites"}
        vain |= {"layer"} if self.on != "hidden" else set()
        vain |= {"steps"} if self.direction != "pgd" else set()
        fields = type(self).model_fields
        if said := sorted(name for name in vain if getattr(self, name) != fields[name].default):
            raise ValueError(
                f"{', '.join(said)} does nothing with on: {self.on}, direction: {self.direction}; leave it out"
            )
        return self
