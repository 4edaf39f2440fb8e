"""One optimizer step: the passes that the losses need, run once each, and the one place that divides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from limbeck.losses.spec import Loss, Openings, Passes
from limbeck.models.head import logits_of
from limbeck.models.tree import TreeBatch, hidden_states
from limbeck.training.batches import MicroBatch

if TYPE_CHECKING:
    from accelerate import Accelerator


class Forward(nn.Module):
    """Log-probabilities (U, V), float32, at each place of a batch of trees; one module, so that it can be wrapped."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: TreeBatch) -> Tensor:
        backbone = self.model.get_base_model()
        # The adapter is in float32 whatever the backbone computes in. Accelerate's own mixed precision is set once
        # for a whole process, and a second training could not choose another.
        computes_in = backbone.dtype
        with torch.autocast(batch.ids_BT.device.type, computes_in, enabled=computes_in != torch.float32):
            logits_UV = logits_of(backbone, hidden_states(backbone.get_decoder(), batch))
        return logits_UV.log_softmax(-1)


def passes_of(logprobs_UV: Tensor, micro: MicroBatch) -> Passes:
    """What the model said, sorted by what it is for."""
    scored = micro.trees.scored
    places_D, at_BO = scored.at_N[micro.openings_BO].unique(return_inverse=True)
    return Passes(
        student_NV=logprobs_UV[scored.at_N[micro.taught_N]],
        others_R=_others(logprobs_UV, scored.at_N[micro.rejected_R], micro.labels.rejected_R),
        openings=Openings(logprobs_UV[places_D], at_BO, micro.opening_O, micro.opening_sizes),
        teacher=micro.teacher,
    )


def _others(logprobs_UV: Tensor, at_R: Tensor, token_R: Tensor) -> Tensor:
    """log(1 - q(token)) at each place, summed over the other tokens: 1 - q itself would lose all digits near q = 1."""
    return logprobs_UV[at_R].scatter(1, token_R[:, None], -torch.inf).logsumexp(-1)


class StepFigures(NamedTuple):
    """Each loss (nats per unit), its units in the step, the gradient norm before clipping, and tokens learnt from."""

    losses: dict[str, float]
    units: dict[str, float]
    gradient_norm: float
    supervised_tokens: int


def run_step(
    forward: nn.Module,
    losses: Sequence[Loss],
    batches: Sequence[MicroBatch],
    parameters: Sequence[nn.Parameter],
    accelerator: Accelerator,
    *,
    clip: float,
) -> StepFigures:
    """Gradients of the whole step, left on the parameters and clipped.

    Each loss is summed and divided by the weight of its own units in the whole step, over micro-batches and
    processes, so that how the step is cut changes nothing.
    """
    device = accelerator.device
    totals = torch.stack([_total(loss, batches) for loss in losses]).to(device)
    totals = accelerator.reduce(totals, reduction="sum")
    sums = torch.zeros_like(totals)
    for number, micro in enumerate(batches):
        last = number + 1 == len(batches)
        with _synchronised_at_the_end(accelerator, forward, last=last):
            logprobs_UV = forward(micro.trees)
            passes = passes_of(logprobs_UV, micro)
            # Hangs on the model even where no loss has a unit, so that every process has something to average.
            objective = 0.0 * logprobs_UV[0, 0]
            for k, loss in enumerate(losses):
                value, weight = loss(passes, micro.labels)
                if totals[k] > 0:
                    share = (value * weight).sum() / totals[k]
                    sums[k] += share.detach()
                    # Processes average their gradients; the division is already by the weight of all of them.
                    objective = objective + loss.weight * share * accelerator.num_processes
            accelerator.backward(objective)
    norm = torch.nn.utils.clip_grad_norm_(list(parameters), clip)
    sums = accelerator.reduce(sums, reduction="sum")
    return StepFigures(
        losses={name: float(sums[k]) for k, name in enumerate(names(losses)) if totals[k] > 0},
        units={name: float(totals[k]) for k, name in enumerate(names(losses))},
        gradient_norm=float(norm),
        supervised_tokens=sum(len(micro.taught_N) for micro in batches),
    )


def names(losses: Sequence[Loss]) -> list[str]:
    """What each loss is called in the log: its kind, numbered from the second of a kind on."""
    kinds = [loss.kind for loss in losses]
    return [f"{kind}_{kinds[: k + 1].count(kind)}" if kind in kinds[:k] else kind for k, kind in enumerate(kinds)]


def _total(loss: Loss, batches: Sequence[MicroBatch]) -> Tensor:
    return torch.stack([loss.weights(micro.labels).sum().float() for micro in batches]).sum()


def _synchronised_at_the_end(accelerator: Accelerator, forward: nn.Module, *, last: bool) -> Any:
    import contextlib

    return contextlib.nullcontext() if last else accelerator.no_sync(forward)
