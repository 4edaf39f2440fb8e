"""Attention by products is PyTorch's own, checked in float64, and is taken only where it is meant to be."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from limbeck.models import attention
from limbeck.models.references import load_weights, resolve
from limbeck.models.room import Room
from limbeck.models.tree import Tree, collate, hidden_states

LAYER: Any = SimpleNamespace(num_key_value_groups=3, is_causal=True)
# Rows, keys, queries: reading, reading on behind a cache, writing one token.
SIZES = {"reading": (3, 17, 17), "reading on": (2, 21, 5), "writing": (4, 33, 1)}
MASKS = ("seen", "added", "causal")


def inputs(rows: int, keys: int, queries: int, dtype: torch.dtype) -> list[Tensor]:
    drawn = torch.Generator().manual_seed(0)
    shapes = ((rows, 6, queries, 8), (rows, 2, keys, 8), (rows, 2, keys, 8))
    # Rounded first, so that the reference has the very same numbers.
    return [torch.randn(shape, generator=drawn).bfloat16().to(dtype).requires_grad_() for shape in shapes]


def mask_of(kind: str, rows: int, keys: int, queries: int) -> Tensor | None:
    seen = torch.rand((rows, 1, queries, keys), generator=torch.Generator().manual_seed(1)) < 0.6
    seen[..., 0] = True
    return {"seen": seen, "added": torch.zeros(seen.shape).masked_fill(~seen, -torch.inf), "causal": None}[kind]


@pytest.mark.parametrize(("size", "kind"), [pair for pair in product(SIZES, MASKS) if pair != ("reading on", "causal")])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_values_and_gradients_are_those_of_float64(
    monkeypatch: pytest.MonkeyPatch, size: str, kind: str, scaling: float | None
) -> None:
    rows, _, queries = SIZES[size]
    mask = mask_of(kind, *SIZES[size])
    given, exact = inputs(*SIZES[size], torch.bfloat16), inputs(*SIZES[size], torch.float64)
    monkeypatch.delattr(attention, "sdpa_attention_forward")  # nothing here may need it
    out, _ = attention.attend(LAYER, *given, mask, scaling=scaling, dropout=0.0)
    wanted = scaled_dot_product_attention(
        *exact,
        attn_mask=mask if mask is None or mask.dtype == torch.bool else mask.double(),
        is_causal=mask is None and queries > 1,
        scale=scaling,
        enable_gqa=True,
    ).transpose(1, 2)
    assert out.shape == (rows, queries, 6, 8)
    torch.testing.assert_close(out.double(), wanted, atol=0.02, rtol=0.02)
    slope = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(2)).bfloat16()
    out.backward(slope)
    wanted.backward(slope.double())
    for one, other in zip(given, exact, strict=True):
        assert one.grad is not None and other.grad is not None
        assert (one.grad.double() - other.grad).norm() <= 0.02 * other.grad.norm()


def test_the_room_behind_a_cache_changes_nothing_and_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = (one.detach() for one in inputs(4, 33, 1, torch.bfloat16))
    mask = mask_of("seen", 4, 33, 1)
    plain, _ = attention.attend(LAYER, query, key, value, mask)
    held = [Room().append(one[:, :, :32], one[:, :, 32:]) for one in (key, value)]
    assert not held[0].is_contiguous()
    multiplied: list[Tensor] = []
    bmm = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda *pair: multiplied.extend(pair) or bmm(*pair))
    roomy, _ = attention.attend(LAYER, query, *held, mask)
    torch.testing.assert_close(roomy, plain, atol=0.01, rtol=0.01)
    assert [one.is_contiguous() for one in (multiplied[0], multiplied[3])] == [True, True]


@pytest.mark.parametrize("hidden", [-torch.inf, torch.finfo(torch.float32).min, False])
def test_padding_that_sees_nothing_stays_a_number(hidden: float | bool) -> None:
    given = inputs(2, 9, 9, torch.bfloat16)
    seen = torch.ones(2, 1, 9, 9, dtype=torch.bool).tril()
    seen[0, :, :3] = False
    mask = seen if hidden is False else torch.zeros(seen.shape).masked_fill(~seen, hidden)
    out, _ = attention.attend(LAYER, *given, mask)
    out.float().sum().backward()
    assert out.isfinite().all() and all(one.grad is not None and one.grad.isfinite().all() for one in given)


ENCODER: Any = SimpleNamespace(num_key_value_groups=3, is_causal=False)


@pytest.mark.parametrize(
    ("layer", "given", "mask", "asked"),
    [
        pytest.param(LAYER, inputs(1, 9, 9, torch.float32), None, {}, id="float32"),
        pytest.param(LAYER, inputs(1, 2500, 2500, torch.bfloat16), None, {}, id="long"),
        pytest.param(LAYER, inputs(1, 9, 9, torch.bfloat16), None, {"dropout": 0.1}, id="dropout"),
        pytest.param(LAYER, inputs(1, 9, 9, torch.bfloat16), None, {"position_bias": torch.zeros(9, 9)}, id="bias"),
        pytest.param(LAYER, inputs(1, 9, 9, torch.bfloat16), None, {"is_causal": False}, id="asked for all"),
        pytest.param(ENCODER, inputs(1, 9, 9, torch.bfloat16), None, {}, id="an encoder"),
        pytest.param(LAYER, inputs(1, 9, 4, torch.bfloat16), None, {}, id="behind a cache without a mask"),
        pytest.param(LAYER, inputs(1, 9, 9, torch.bfloat16), torch.ones(9, 9, dtype=torch.long), {}, id="odd mask"),
    ],
)
def test_elsewhere_pytorchs_own_is_asked(
    monkeypatch: pytest.MonkeyPatch, layer: Any, given: list[Tensor], mask: Tensor | None, asked: dict[str, Any]
) -> None:
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(attention, "sdpa_attention_forward", lambda *_, **kwargs: calls.append(kwargs) or ("own", None))
    assert attention.attend(layer, *given, mask, **asked) == ("own", None)
    assert calls == [asked]


def test_a_loaded_model_reads_trees_by_it_and_is_saved_without_a_trace(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path, tmp_path: Path
) -> None:
    model = load_weights(resolve(str(tiny_model)), "bfloat16")
    batch = collate([[Tree([5, 6, 7], [[8, 9], [10]])], [Tree([5, 9], [[11, 12, 13]])]], pad=0)
    model.set_attn_implementation("sdpa")
    theirs_UH = hidden_states(model.get_decoder(), batch)
    attention.quicken_attention(model)
    monkeypatch.delattr(attention, "sdpa_attention_forward")  # nothing here may need it
    torch.testing.assert_close(hidden_states(model.get_decoder(), batch), theirs_UH, atol=0.05, rtol=0.05)
    model.save_pretrained(tmp_path)
    assert attention.NAME not in (tmp_path / "config.json").read_text()


def test_a_model_that_asks_for_the_kernel_by_name_keeps_it(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    monkeypatch.setattr(attention.inspect, "getsource", lambda module: 'if config._attn_implementation == "sdpa":')
    assert load_weights(resolve(str(tiny_model)), "bfloat16").config._attn_implementation == "sdpa"
