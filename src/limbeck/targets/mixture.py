"""The distributions of several teachers as one, and how far they are apart.

Axes: M teachers, N reply tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def stacked(logprobs: Sequence[Tensor]) -> Tensor:
    """The log-probs (N, V) of each teacher as one tensor (M, N, V); an id that a teacher's head lacks has no mass."""
    import torch

    widest = max(one_NV.shape[-1] for one_NV in logprobs)
    return torch.stack(
        [torch.nn.functional.pad(one_NV, (0, widest - one_NV.shape[-1]), value=-math.inf) for one_NV in logprobs]
    )


def mixed(logprobs_MNV: Tensor, weights_M: Tensor) -> Tensor:
    """Log-probs of the probability mixture Σ w p, nats, shape (N, V). The weights sum to 1."""
    return (logprobs_MNV + weights_M.log()[:, None, None]).logsumexp(0)


def begun_by(first_NV: Tensor, then_NV: Tensor, *, window: int) -> Tensor:
    """The one distribution within the first `window` tokens, the other after them."""
    import torch

    return torch.cat([first_NV[:window], then_NV[window:]])


def disagreement(probabilities_MNV: Tensor) -> Tensor:
    """Jensen-Shannon divergence of the teachers, all weighted alike, over the log of their number, shape (N,).

    In [0, 1]: 0 where all say the same, 1 where no id has mass of two; of two teachers it is in bits.
    """
    import torch

    entropy_MN = torch.special.entr(probabilities_MNV).sum(-1)
    divergence_N = torch.special.entr(probabilities_MNV.mean(0)).sum(-1) - entropy_MN.mean(0)
    # Rounding may take the divergence of equal distributions below 0.
    return (divergence_N / math.log(len(probabilities_MNV))).clamp(0, 1)
