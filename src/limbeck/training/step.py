"""One optimizer step: the passes that the losses need, run once each, and the one place that divides.

Axes: U places that the model has read, N taught tokens, R rejected ones, B deciding prompts, V vocabulary, H hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from limbeck.losses.fused import Block, Work, block_rows, fused
from limbeck.losses.places import Plain
from limbeck.losses.spec import Labels, Loss, Openings, Passes
from limbeck.models.head import Head
from limbeck.models.tree import hidden_states
from limbeck.protocols import TopK
from limbeck.training.batches import MicroBatch

if TYPE_CHECKING:
    from accelerate import Accelerator


class Objective(nn.Module):
    """All losses of a micro-batch, weighed and divided; one module, so that it can be wrapped.

    Gives the objective and what each loss adds to its mean over the whole step, shape (K,).
    """

    def __init__(self, model: Any, losses: Sequence[Loss]) -> None:
        super().__init__()
        self.model = model
        self.losses = losses

    def forward(self, micro: MicroBatch, totals_K: Tensor) -> tuple[Tensor, Tensor]:
        hidden_UH = self._read(micro)
        head = Head.of(self.model.get_base_model())
        vocabulary = len(head.weight_VH)
        nothing = Plain(hidden_UH.new_empty((0, vocabulary), dtype=torch.float32))
        shares_K = torch.zeros_like(totals_K)

        def objective(part: Part, blocks: Sequence[Block]) -> Tensor:
            (places,) = blocks
            labels = part.labels
            passes = Passes(
                student=places if len(labels.tokens_N) else nothing,
                rejected=places if len(labels.rejected_R) else nothing,
                openings=Openings(
                    places if len(labels.risk_B) else nothing, part.at_BO, micro.opening_O, micro.opening_sizes
                ),
                teacher=part.teacher,
            )
            value = hidden_UH.new_zeros((), dtype=torch.float32)
            for k, loss in enumerate(self.losses):
                value_of, weight = loss(passes, labels)
                if len(value_of) and totals_K[k] > 0:
                    share = (value_of * weight).sum() / totals_K[k]
                    shares_K[k] += share.detach()
                    value = value + loss.weight * share
            return value[None]

        works = (Work(part, (part.rows,), part.kept_NK) for part in parts(micro, block_rows(vocabulary)))
        # Hangs on the model even where no loss has a unit, so that every process has something to average.
        return fused(objective, works, head, hidden_UH).sum() + 0.0 * hidden_UH.sum(), shares_K

    def _read(self, micro: MicroBatch) -> Tensor:
        backbone = self.model.get_base_model()
        # The adapter is in float32 whatever the backbone computes in. Accelerate's own mixed precision is set once
        # for a whole process, and a second training could not choose another.
        computes_in = backbone.dtype
        with torch.autocast(micro.trees.ids_BT.device.type, computes_in, enabled=computes_in != torch.float32):
            return hidden_states(backbone.get_decoder(), micro.trees)


class Part(NamedTuple):
    """What is projected at once: some taught tokens, some rejected ones, or some deciding prompts.

    `rows` are the places it reads, among which `at_BO` finds where each token of an opening is predicted; `kept_NK` are
    the ids that losses ask for with their rest.
    """

    labels: Labels
    rows: Tensor
    teacher: TopK
    at_BO: Tensor
    kept_NK: Tensor | None = None


def parts(micro: MicroBatch, rows: int) -> Iterator[Part]:
    """A micro-batch in parts of about so many rows; no token and no prompt is cut."""
    at_N, labels = micro.trees.scored.at_N, micro.labels
    no_teacher, nowhere_BO = TopK(*(column[:0] for column in micro.teacher)), micro.openings_BO[:0]
    # Apart, so that a part has a teacher for all of its tokens or for none.
    for known in (True, False):
        for some in torch.nonzero(labels.taught_N == known)[:, 0].split(rows):
            teacher = TopK(*(column[some] for column in micro.teacher))
            kept_NK = teacher.ids_NK if known else None
            yield Part(labels.only(taught=some), at_N[micro.taught_N[some]], teacher, nowhere_BO, kept_NK)
    for some in torch.arange(len(micro.rejected_R), device=at_N.device).split(rows):
        avoided = labels.only(rejected=some)
        yield Part(avoided, at_N[micro.rejected_R[some]], no_teacher, nowhere_BO, avoided.rejected_R[:, None])
    for some in torch.arange(len(micro.openings_BO), device=at_N.device).split(max(1, rows // len(micro.opening_O))):
        places, at_BO = at_N[micro.openings_BO[some]].unique(return_inverse=True)
        yield Part(labels.only(prompts=some), places, no_teacher, at_BO)


class StepFigures(NamedTuple):
    """Each loss (nats per unit), its units in the step, the gradient norm before clipping, and tokens learnt from."""

    losses: dict[str, float]
    units: dict[str, float]
    gradient_norm: float
    supervised_tokens: int


def run_step(
    objective: nn.Module,
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
        with _synchronised_at_the_end(accelerator, objective, last=last):
            value, shares = objective(micro, totals)
            sums += shares
            # Processes average their gradients; the division is already by the weight of all of them.
            accelerator.backward(value * accelerator.num_processes)
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


def _synchronised_at_the_end(accelerator: Accelerator, module: nn.Module, *, last: bool) -> Any:
    import contextlib

    return contextlib.nullcontext() if last else accelerator.no_sync(module)
