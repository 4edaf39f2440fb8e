"""One optimizer step: gradients over micro-batches and processes, and the one place that divides.

Axes: G objectives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from limbeck.losses.spec import Loss
from limbeck.training.units import MicroBatch

if TYPE_CHECKING:
    from accelerate import Accelerator


# A loss that is no more than this may have nothing left to teach.
LEARNT = 1e-3


class StepFigures(NamedTuple):
    """Each loss (nats per unit), its units in the step, the gradient norm before clipping, and tokens learnt from.

    `gradient_cosine` is that between the gradients of harmless and harmful prompts, None where they are not kept apart
    or one is nothing.
    With float16 the norm of a step that is left out, for its scaled gradients overflowed, is infinite or NaN.
    """

    losses: dict[str, float]
    units: dict[str, float]
    gradient_norm: float
    supervised_tokens: int
    gradient_cosine: float | None = None

    def broken(self, losses: Sequence[Loss], *, scaled: bool) -> list[str]:
        """What is NaN or infinite, by name, or lost for good; nothing may be learnt from a step with any. `scaled`
        gradients may be anything, and losses of no weight, which are watched alone, anything finite."""
        figures = {f"loss '{name}'": value for name, value in self.losses.items()}
        if not scaled:
            figures["gradient norm"] = self.gradient_norm
        found = [f"the {name} is {value}" for name, value in figures.items() if not math.isfinite(value)]
        if not found and not scaled and self.gradient_norm == 0:
            # So it is where logits have grown until every probability is 0 or 1, and where nothing that is trained
            # reaches what a loss looks at.
            found = [
                f"the gradient is 0 while the loss '{name}' is {self.losses[name]:.4g}"
                for name, loss in zip(names(losses), losses, strict=True)
                if loss.weight > 0 and self.losses.get(name, 0.0) > LEARNT
            ]
        return found

    def row(self) -> dict[str, Any]:
        """The figures by name; a norm or cosine that is not finite is none."""
        kept = {
            name: value if value is not None and math.isfinite(value) else None
            for name, value in (("gradient_norm", self.gradient_norm), ("gradient_cosine", self.gradient_cosine))
        }
        return self._asdict() | kept


class Scaled(NamedTuple):
    """What scales the gradients inside of the model up, and whose gradients these are."""

    scaler: torch.amp.GradScaler
    optimizer: torch.optim.Optimizer

    def factor(self, device: torch.device) -> float:
        """How many times as large they are; 1 where the scaler is off."""
        return float(self.scaler.scale(torch.ones((), device=device)))


def run_step(
    objective: nn.Module,
    losses: Sequence[Loss],
    batches: Sequence[MicroBatch],
    parameters: Sequence[nn.Parameter],
    accelerator: Accelerator,
    *,
    clip: float,
    apart: bool = False,
    noise_pull: float = 1.0,
    scaled: Scaled | None = None,
) -> StepFigures:
    """Gradients of the whole step, left on the parameters and clipped.

    Each loss is summed and divided by the weight of its own units in the whole step, over micro-batches and
    processes, so that how the step is cut changes nothing. Where the objectives are `apart`, what of the first
    gradient opposes the second is left out.
    """
    device = accelerator.device
    scale = scaled.factor(device) if scaled is not None else 1.0
    totals = torch.stack([_total(loss, batches) for loss in losses]).to(device)
    totals = accelerator.reduce(totals, reduction="sum")
    pulls = torch.tensor([1.0 if loss.under is None else noise_pull for loss in losses], device=device)
    sums = torch.zeros_like(totals)
    sides = [[torch.zeros_like(parameter) for parameter in parameters] for _ in range(2)] if apart else []
    for number, micro in enumerate(batches):
        last = number + 1 == len(batches) and not apart
        with _synchronised_at_the_end(accelerator, objective, last=last):
            # Scaled before the head computes its gradient: what it has rounded to zero stays zero.
            value_G, shares = objective(micro, totals / scale, pulls)
            sums += shares / scale
            # Processes average their gradients; the division is already by the weight of all of them.
            value_G = value_G * accelerator.num_processes
            if not apart:
                accelerator.backward(value_G.sum())
            for side, value in zip(sides, value_G.unbind(), strict=False):
                slopes = torch.autograd.grad(
                    value, parameters, retain_graph=True, materialize_grads=True, allow_unused=True
                )
                for so_far, slope in zip(side, slopes, strict=True):
                    so_far += slope
    cosine = _project(sides, parameters, accelerator) if apart else None
    if scaled is not None:
        scaled.scaler.unscale_(scaled.optimizer)
    norm = torch.nn.utils.clip_grad_norm_(list(parameters), clip)
    # Of sharded gradients each process knows its own part alone.
    norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
    supervised = torch.tensor(sum(len(micro.taught_N) for micro in batches), device=device)
    sums, supervised = accelerator.reduce((sums, supervised), reduction="sum")
    return StepFigures(
        losses={name: float(sums[k]) for k, name in enumerate(names(losses)) if totals[k] > 0},
        units={name: float(totals[k]) for k, name in enumerate(names(losses))},
        gradient_norm=float(norm),
        supervised_tokens=int(supervised),
        gradient_cosine=cosine,
    )


def _project(
    sides: Sequence[Sequence[Tensor]], parameters: Sequence[nn.Parameter], accelerator: Accelerator
) -> float | None:
    """Leaves on the parameters the sum of both gradients, the first without what opposes the second; their cosine."""
    first, second = (
        torch.cat([accelerator.reduce(slope, reduction="mean").flatten() for slope in side]) for side in sides
    )
    both, cosine = without_opposition(first, second)
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, slope in zip(parameters, both.split(sizes), strict=True):
        parameter.grad = slope.view_as(parameter)
    return cosine


def without_opposition(first: Tensor, second: Tensor) -> tuple[Tensor, float | None]:
    """The sum of two gradients, the first without what of it opposes the second, and their cosine; None where one of
    them is nothing."""
    product, length = torch.dot(first, second), first.norm() * second.norm()
    if product < 0:
        first = first - product / second.square().sum() * second
    return first + second, float(product / length) if length > 0 else None


def names(losses: Sequence[Loss]) -> list[str]:
    """What each loss is called in the log: its kind, numbered from the second of a kind on."""
    kinds = [loss.kind for loss in losses]
    return [f"{kind}_{kinds[: k + 1].count(kind)}" if kind in kinds[:k] else kind for k, kind in enumerate(kinds)]


def _total(loss: Loss, batches: Sequence[MicroBatch]) -> Tensor:
    return torch.stack([loss.weights(micro.labels).sum().float() for micro in batches]).sum()


def _synchronised_at_the_end(accelerator: Accelerator, module: nn.Module, *, last: bool) -> Any:
    return nullcontext() if last else accelerator.no_sync(module)
