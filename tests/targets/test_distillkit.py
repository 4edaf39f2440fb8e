"""DistillKit's bytes, packed here by its encoder's rules, are read as its decoder's rules say."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.targets.distillkit import Compression, decoded

VOCABULARY = 258
EXACT: dict[str, Any] = {"d": VOCABULARY, "k": 6, "exact_k": 6, "residual_bins": (), "delta_encoding": False}
# As in DistillKit's own example: exact ones first, then a polynomial, then residuals in bins of fewer and fewer bits.
MIXED: dict[str, Any] = {
    "d": VOCABULARY,
    "k": 20,
    "exact_k": 4,
    "exact_dtype": "float16",
    "polynomial_terms": (0, 1, 2, "sqrt"),
    "term_dtype": "float32",
    "residual_bins": (
        {"scale_dtype": "float16", "element_bits": 7, "num_elements": 5},
        {"scale_dtype": "float32", "element_bits": 3, "num_elements": 6},
        {"scale_dtype": "bfloat16", "element_bits": 1, "num_elements": 2},
    ),
    "delta_encoding": True,
}
CONFIGS = {
    "exact": EXACT,
    "mixed": MIXED,
    "normalised": {**MIXED, "normalize_t": True, "polynomial_terms": (0, 1, "exp")},
    "without a polynomial": {**MIXED, "polynomial_terms": None, "delta_encoding": False},
    "polynomial alone": {**MIXED, "residual_bins": (), "exact_k": 1, "exact_dtype": "float32"},
}


def likeliest(k: int, tokens: int = 5) -> tuple[Tensor, Tensor]:
    noise = torch.Generator().manual_seed(k)
    logprobs_NK, ids_NK = (3 * torch.randn(tokens, VOCABULARY, generator=noise)).log_softmax(-1).topk(k)
    return ids_NK, logprobs_NK


def packed(numbers_NK: Tensor, bits: int) -> NDArray[np.uint8]:
    """Each number with its highest bit first, one after the other, zeros up to a whole byte."""
    text = ["".join(f"{number:0{bits}b}" for number in row) for row in numbers_NK.tolist()]
    return np.stack([np.packbits(np.array([int(bit) for bit in row], dtype=np.uint8)) for row in text])


def raw(numbers_NK: Tensor) -> NDArray[np.uint8]:
    return numbers_NK.contiguous().view(torch.uint8).numpy()


def encoded(config: Compression, ids_NK: Tensor, logprobs_NK: Tensor) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The bytes of each token: differences, exact ones, coefficients of a least-squares fit, quantised residuals."""
    said_NK = logprobs_NK
    if config.delta_encoding:
        said_NK = torch.cat([logprobs_NK[:, :1], logprobs_NK.diff(dim=1)], dim=1)
    chunks = [raw(said_NK[:, : config.exact_k].to(getattr(torch, config.exact_dtype)))]
    rest_NK = said_NK[:, config.exact_k :]
    if config.polynomial_terms:
        others = rest_NK.shape[1]
        at = torch.linspace(0, 1, others) if config.normalize_t else torch.arange(others).float()
        terms_KP = torch.stack(
            [at**term if isinstance(term, int) else getattr(torch, term)(at) for term in config.polynomial_terms], dim=1
        )
        coefficients_NP = torch.linalg.lstsq(terms_KP, rest_NK.T).solution.T
        chunks.append(raw(coefficients_NP.to(getattr(torch, config.term_dtype))))
        rest_NK = rest_NK - coefficients_NP @ terms_KP.T
    for one in config.residual_bins:
        values, rest_NK = rest_NK[:, : one.num_elements], rest_NK[:, one.num_elements :]
        least, most = (
            (0, 1) if one.element_bits == 1 else (-(2 ** (one.element_bits - 1)), 2 ** (one.element_bits - 1) - 1)
        )
        scale = values.abs().amax(1, keepdim=True) / max(1, 2 ** (one.element_bits - 1))
        scale = scale.to(getattr(torch, one.scale_dtype))
        steps = (values / scale.float()).round().clamp(least, most) - least
        chunks += [raw(scale), packed(steps.long(), one.element_bits)]
    return np.concatenate(chunks, axis=1), packed(ids_NK, math.ceil(math.log2(config.d)))


def read_by_hand(config: Compression, content: bytes) -> list[float]:
    """One token's log-probs, number by number in double precision."""
    place = 0

    def numbers(kind: str, count: int) -> list[float]:
        nonlocal place
        size = {"float16": 2, "bfloat16": 2, "float32": 4}[kind]
        parts = [content[place + size * at : place + size * (at + 1)] for at in range(count)]
        place += size * count
        if kind == "bfloat16":
            parts, kind = [b"\0\0" + part for part in parts], "float32"
        return [struct.unpack("<e" if kind == "float16" else "<f", part)[0] for part in parts]

    said = numbers(config.exact_dtype, config.exact_k)
    coefficients = numbers(config.term_dtype, len(config.polynomial_terms or ()))
    residuals: list[float] = []
    for one in config.residual_bins:
        (scale,) = numbers(one.scale_dtype, 1)
        size = math.ceil(one.element_bits * one.num_elements / 8)
        bits = "".join(f"{byte:08b}" for byte in content[place : place + size])
        place += size
        steps = [int(bits[at * one.element_bits :][: one.element_bits], 2) for at in range(one.num_elements)]
        residuals += [
            (2 * step - 1 if one.element_bits == 1 else step - 2 ** (one.element_bits - 1)) * scale for step in steps
        ]
    others = config.k - config.exact_k
    assert place == len(content)
    for number in range(others):
        at = number / (others - 1) if config.normalize_t else number
        terms = [
            at**term if isinstance(term, int) else getattr(math, term)(at) for term in config.polynomial_terms or ()
        ]
        fit = sum(factor * term for factor, term in zip(coefficients, terms, strict=True))
        said.append(fit + (residuals[number] if number < len(residuals) else 0.0))
    return np.cumsum(said).tolist() if config.delta_encoding else said


@pytest.mark.parametrize("name", CONFIGS)
def test_ids_are_the_same_and_log_probs_those_that_the_bytes_stand_for(name: str) -> None:
    config = Compression.model_validate(CONFIGS[name])
    ids_NK, logprobs_NK = likeliest(config.k)
    logprobs, indices = encoded(config, ids_NK, logprobs_NK)
    found_ids_NK, found_NK = decoded(config, logprobs, indices)
    assert torch.equal(found_ids_NK, ids_NK)
    by_hand_NK = torch.tensor([read_by_hand(config, row.tobytes()) for row in logprobs])
    # Half precision is what the result is kept in, where the exact ones are.
    torch.testing.assert_close(found_NK, by_hand_NK, rtol=1e-3, atol=2e-3)


def test_exact_ones_in_single_precision_come_back_bit_for_bit() -> None:
    config = Compression.model_validate(EXACT)
    ids_NK, logprobs_NK = likeliest(config.k)
    _, found_NK = decoded(config, *encoded(config, ids_NK, logprobs_NK))
    assert torch.equal(found_NK, logprobs_NK)


def test_fewer_bytes_than_the_configuration_wants_are_told() -> None:
    config = Compression.model_validate(EXACT)
    logprobs, indices = encoded(config, *likeliest(config.k))
    with pytest.raises(ValueError, match=r"a token has 23 bytes of log-probs, and compression_config.yaml wants more"):
        decoded(config, logprobs[:, :-1], indices)
    with pytest.raises(ValueError, match=r"6 bytes do not hold 6 numbers of 9 bits"):
        decoded(config, logprobs, indices[:, :-1])
