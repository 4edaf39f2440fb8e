"""Some ids drawn from a distribution, weighted so that they stand for all of it in the mean.

After the random sampling of Sparse Logit Sampling (Anshumann et al. 2025, arXiv:2503.16870). Axes: N reply tokens, V
vocabulary, D draws, S distinct ids of all tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck.protocols import Drawn

if TYPE_CHECKING:
    from torch import Tensor


def drawn(logprobs_NV: Tensor, uniform_N: Tensor, *, draws: int, exponent: float) -> Drawn:
    """`draws` ids of each distribution p, drawn from the proposal q ∝ p^exponent; the weight of an id is
    count / draws · p / q, whose mean is p.

    One number in [0, 1) a token places all of its draws, evenly spaced along the cumulative proposal: an id comes
    draws · q times, rounded up or down by chance. Independent draws, as the paper has them, are right in the mean as
    well and scatter more.
    """
    import torch

    logprobs_NV = logprobs_NV.double()
    proposal_NV = (exponent * logprobs_NV).log_softmax(-1)
    upto_NV = proposal_NV.exp().cumsum(-1)
    total_N1 = upto_NV[:, -1:]
    at_ND = (uniform_N[:, None] + torch.arange(draws, device=upto_NV.device)) / draws * total_N1
    # Rounded up to the total it would fall on an id without mass, or on none.
    at_ND = torch.minimum(at_ND, total_N1.nextafter(torch.zeros_like(total_N1)))
    tokens, vocabulary = logprobs_NV.shape
    first_N1 = vocabulary * torch.arange(tokens, device=upto_NV.device)[:, None]
    # Along a token's draws the ids rise, so that equal ones are neighbours.
    found_ND = first_N1 + torch.searchsorted(upto_NV, at_ND, right=True)
    found_S, count_S = found_ND.flatten().unique_consecutive(return_counts=True)
    token_S, ids_S = found_S // vocabulary, found_S % vocabulary
    ratio_S = (logprobs_NV - proposal_NV)[token_S, ids_S]
    logweights_S = (count_S.double() / draws).log() + ratio_S
    return Drawn(torch.bincount(token_S, minlength=tokens), ids_S, logweights_S.float())
