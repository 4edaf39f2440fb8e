"""Liger's chunked JSD.

It always computes the weight's gradient. Its torch.compile is off: compiling took a minute in every process, and the
calls after it were no faster.
"""

from __future__ import annotations

import torch
from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

import work


def head(setting: work.Setting) -> work.Call:
    """The soft loss alone, with so many rows to a chunk."""
    inputs = work.head(setting)
    loss_of = LigerFusedLinearJSDLoss(
        weight_hard_loss=0.0,
        weight_soft_loss=1.0,
        beta=float(setting["beta"]),
        compiled=False,
        chunk_size=int(setting["chunk"]),
    )
    labels_N = torch.zeros(len(inputs.student_NH), dtype=torch.long)
    return lambda: inputs.gradients(loss_of(*inputs, labels_N))
