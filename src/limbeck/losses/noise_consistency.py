"""Noise consistency: a disturbed prompt or state does not change what the student says."""

from __future__ import annotations

from typing import Literal

from limbeck.losses.divergence import kl, sloped
from limbeck.losses.noise import Noise
from limbeck.losses.spec import Labels, Passes, Units
from limbeck.losses.token_loss import TokenLoss


class NoiseConsistency(TokenLoss):
    """KL(q(.|x) || q(.|x + δ)), nats per taught token, without gradient through the undisturbed side; 0 without noise.

    Helps where what is asked comes misspelt or rephrased. Costs one more forward and backward pass, `vat` two, `pgd`
    one more for each of its steps. After VAT (Miyato et al. 2017, arXiv:1704.03976) and SMART (Jiang et al. 2019,
    arXiv:1911.03437), which disturbs the embedding.
    """

    kind: Literal["noise_consistency"] = "noise_consistency"
    noise: Noise = Noise()
    needs = frozenset({"reply"})

    @property
    def under(self) -> Noise:
        return self.noise

    def __call__(self, passes: Passes, labels: Labels) -> Units:
        value_N = sloped(kl, passes.student.every(), passes.noisy[self.noise].every())
        return Units(value_N, self.weights(labels))
