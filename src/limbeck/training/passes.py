"""What the student and the model that it was say about a micro-batch: one pass each, with or without noise.

Axes: B rows, T tokens of a row, U places that the losses read, S states to compare, H hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.losses.divergence import kl, sloped
from limbeck.losses.fused import Source, Work, block_rows, fused
from limbeck.losses.noise import Noise
from limbeck.losses.places import Places
from limbeck.losses.spec import Contrasts
from limbeck.models.head import Head
from limbeck.models.tree import TreeBatch, hidden_states
from limbeck.training.units import Compared, MicroBatch
from limbeck.training.whole import Whole

# How far the first look of `vat` goes, as a share of the noise's length: near enough for a slope.
VAT_LOOK = 0.1


class Reader:
    """Reads trees with the student, or with the model before any training, whose head may be another."""

    def __init__(self, model: Any) -> None:
        self.model = model
        backbone = model.get_base_model()
        self.decoder: Any = backbone.get_decoder()
        self.head = Head.of(backbone)
        self.untrained_head = self.head
        # An adapter is in float32 whatever its backbone computes in.
        self.computes_in = backbone.dtype
        if isinstance(model, Whole):
            self.untrained_head = Head.of(model.untrained[0]) if model.untrained else self.head
            self.computes_in = model.computes_in

    def read(self, trees: TreeBatch, *, watched: Sequence[int] = ()) -> tuple[Tensor, dict[int, Tensor]]:
        """The last hidden state (U, H) at each place, and all states (B * T, H) after each watched layer."""
        with watching(self.decoder, watched) as states:
            return self._states(self.decoder, trees), states

    def _states(self, decoder: Any, trees: TreeBatch) -> Tensor:
        # Accelerate's own mixed precision is set once for a whole process, and a second training could not choose
        # another.
        halved = self.computes_in != torch.float32
        with torch.autocast(trees.ids_BT.device.type, self.computes_in, enabled=halved):
            return hidden_states(decoder, trees)

    def untrained(self, trees: TreeBatch) -> Tensor:
        """What `read` gave before any training, without gradient."""
        with torch.no_grad():
            if isinstance(self.model, Whole):
                return self._states(self.model.untrained[0].get_decoder(), trees)
            with self.model.disable_adapter():
                return self._states(self.decoder, trees)

    def disturbed(self, trees: TreeBatch, noise: Noise, direction_BTH: Tensor) -> Tensor:
        """The last hidden state at each place where each token's state goes `epsilon` of its length astray."""
        module = self.decoder.layers[noise.layer] if noise.on == "hidden" else self.decoder.get_input_embeddings()
        with _astray(module, noise.epsilon * direction_BTH):
            return self.read(trees)[0]


def under_noise(reader: Reader, micro: MicroBatch, noise: Noise, hidden_UH: Tensor) -> tuple[Tensor, Tensor]:
    """The last hidden states under a noise, and which of them each taught token (N) reads; `hidden_UH` are those
    without it."""
    if noise.on == "text":
        if micro.rewritten is None:
            return hidden_UH[:0], micro.taught_N[:0]
        return reader.read(micro.rewritten)[0], micro.rewritten.scored.at_N
    at_N = micro.trees.scored.at_N[micro.taught_N]
    shape = (*micro.trees.ids_BT.shape, hidden_UH.shape[1])
    direction_BTH = nn.functional.normalize(torch.randn(shape, device=hidden_UH.device), dim=-1)
    if noise.direction == "vat":
        direction_BTH = _uphill(reader, micro, noise, hidden_UH, VAT_LOOK * direction_BTH)
    elif noise.direction == "pgd":
        for _ in range(noise.steps):
            direction_BTH = direction_BTH + _uphill(reader, micro, noise, hidden_UH, direction_BTH)
            direction_BTH = direction_BTH / direction_BTH.norm(dim=-1, keepdim=True).clamp(min=1.0)
    return reader.disturbed(micro.trees, noise, direction_BTH), at_N


def _uphill(reader: Reader, micro: MicroBatch, noise: Noise, hidden_UH: Tensor, start_BTH: Tensor) -> Tensor:
    """The direction of each token, of length 1, in which the student's answers change fastest from `start_BTH`."""
    start_BTH = start_BTH.detach().requires_grad_()
    at_N = micro.trees.scored.at_N[micro.taught_N]
    with torch.enable_grad():
        noisy_UH = reader.disturbed(micro.trees, noise, start_BTH)

        def apart(_: None, places: Sequence[Places]) -> Tensor:
            said, noisy = places
            return sloped(kl, said.every(), noisy.every()).sum()[None]

        rows = block_rows(len(reader.head.weight_VH), hidden_UH.device)
        works = [Work(None, (some, some)) for some in at_N.split(rows) if len(some)]
        if not works:
            return torch.zeros_like(start_BTH)
        sources = [Source(reader.head, one_UH, "hidden") for one_UH in (hidden_UH, noisy_UH)]
        (slope_BTH,) = torch.autograd.grad(fused(apart, works, sources).sum(), start_BTH)
    return nn.functional.normalize(slope_BTH, dim=-1)


def compared(among: Compared, trees: TreeBatch, states: Mapping[int, Tensor]) -> Contrasts:
    """The pooled states (S, H) of each watched layer, and who is compared with whom."""
    count = int(among.owner_P.max()) + 1 if len(among.owner_P) else 0
    rows_P = trees.scored.row_U[trees.scored.at_N[among.at_P]]
    sizes_S1 = torch.bincount(among.owner_P, minlength=count)[:, None].clamp(min=1)
    pooled = {
        layer: state.new_zeros((count, state.shape[1]), dtype=torch.float32).index_add(
            0, among.owner_P, state[rows_P].float()
        )
        / sizes_S1
        for layer, state in states.items()
    }
    return Contrasts(pooled, among.anchor_C, among.others_CM, among.valid_CM)


@contextmanager
def watching(decoder: Any, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """The states (B * T, H) after each of the layers, once the decoder has read something in the block."""
    states: dict[int, Tensor] = {}

    def keep(layer: int, _: nn.Module, __: Any, output: Any) -> None:
        states[layer] = (output[0] if isinstance(output, tuple) else output).flatten(0, 1)

    handles = [decoder.layers[layer].register_forward_hook(partial(keep, layer)) for layer in layers]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _astray(module: nn.Module, share_BTH: Tensor) -> Iterator[None]:
    """Adds to each token's output so many times its own length."""

    def add(_: nn.Module, __: Any, output: Any) -> Any:
        states = output[0] if isinstance(output, tuple) else output
        added = (states + share_BTH * states.detach().float().norm(dim=-1, keepdim=True)).to(states.dtype)
        return (added, *output[1:]) if isinstance(output, tuple) else added

    handle = module.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()
