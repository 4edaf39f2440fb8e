"""Teacher distributions as DistillKit keeps them: bit-packed ids, and log-probs as a few exact ones, a polynomial and
quantised residuals.

After the decoder of arcee-ai/DistillKit (`distillkit.compression`), step by step and in its precisions, so that the
same bytes give the same numbers. Axes: N tokens, K kept ids, P terms of the polynomial.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from limbeck.spec import Spec

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

CONFIG = "compression_config.yaml"
COLUMNS = ("input_ids", "compressed_logprobs", "bytepacked_indices")
Number = Literal["float16", "bfloat16", "float32", "float64"]


class Bin(Spec):
    """Residuals that share a scale."""

    scale_dtype: Number
    element_bits: int = Field(ge=1, le=64)
    num_elements: int = Field(ge=1)


class Compression(Spec):
    """What `compression_config.yaml` says, in DistillKit's own names: `d` ids there are, `k` are kept, likeliest first,
    of which `exact_k` are exact."""

    d: int = Field(ge=1)
    k: int = Field(ge=1)
    exact_k: int = Field(ge=0)
    exact_dtype: Number = "float32"
    polynomial_terms: tuple[Literal["sqrt", "exp"] | int, ...] | None = None
    term_dtype: Number = "float32"
    residual_bins: tuple[Bin, ...]
    delta_encoding: bool = True
    error_diffusion: bool = False
    normalize_t: bool = False


def decoded(config: Compression, logprobs: NDArray[np.uint8], indices: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """Ids and log-probs, both (N, K), of the bytes of each token. Raises ValueError where they are too few."""
    import torch

    bits = int(torch.log2(torch.tensor(config.d, dtype=torch.float32)).ceil())
    return torch.from_numpy(_unpacked(indices, bits, config.k)), _logprobs(config, _Bytes(logprobs))


def _logprobs(config: Compression, stream: _Bytes) -> Tensor:
    import torch

    kind: torch.dtype = getattr(torch, config.exact_dtype)
    exact_NK = stream.numbers(config.exact_dtype, config.exact_k)
    coefficients = stream.numbers(config.term_dtype, len(config.polynomial_terms or ()))
    residuals = [_residuals(one, stream) for one in config.residual_bins]
    others = config.k - config.exact_k
    residual_NK = torch.cat([*residuals, torch.zeros(len(exact_NK), others)], dim=1)[:, :others].to(kind)
    if config.polynomial_terms:
        terms_KP = _terms(config, others)
        residual_NK = torch.sum(terms_KP * coefficients[:, None], dim=-1) + residual_NK
    logprobs_NK = torch.cat([exact_NK, residual_NK], dim=1)
    return logprobs_NK.float().cumsum(-1).to(kind).float() if config.delta_encoding else logprobs_NK.float()


def _terms(config: Compression, others: int) -> Tensor:
    """The terms of the polynomial at each kept id that is not exact."""
    import torch

    kind: Any = getattr(torch, config.term_dtype)
    at = torch.linspace(0, 1, others, dtype=kind) if config.normalize_t else torch.arange(others, dtype=kind)
    terms = config.polynomial_terms or ()
    return torch.stack([at**term if isinstance(term, int) else getattr(torch, term)(at) for term in terms], dim=-1)


def _residuals(one: Bin, stream: _Bytes) -> Tensor:
    import torch

    scale_N1 = stream.numbers(one.scale_dtype, 1)
    packed = stream.take((one.num_elements * one.element_bits + 7) // 8)
    steps = torch.from_numpy(_unpacked(packed, one.element_bits, one.num_elements))
    if one.element_bits == 1:
        return (steps.float() * 2.0 - 1.0) * scale_N1
    return (steps - 2 ** (one.element_bits - 1)).float() * scale_N1


class _Bytes:
    """The bytes of each token (N, bytes), taken from the front."""

    def __init__(self, of: NDArray[np.uint8]) -> None:
        self.of = of
        self.taken = 0

    def take(self, count: int) -> NDArray[np.uint8]:
        """The next bytes. Raises ValueError where there are fewer."""
        found = self.of[:, self.taken : self.taken + count]
        self.taken += count
        if self.taken > self.of.shape[1]:
            raise ValueError(f"a token has {self.of.shape[1]} bytes of log-probs, and {CONFIG} wants more")
        return found

    def numbers(self, kind: Number, count: int) -> Tensor:
        """The next numbers, (N, count)."""
        import torch

        size = getattr(torch, kind).itemsize
        taken = self.take(count * size).copy()
        if not count:
            return torch.empty((len(taken), 0), dtype=getattr(torch, kind))
        return torch.from_numpy(taken).view(getattr(torch, kind))


def _unpacked(packed: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.int64]:
    """Whole numbers of so many bits each, the highest first, (N, count). Raises ValueError where there are fewer."""
    if packed.shape[1] * 8 < bits * count:
        raise ValueError(f"{packed.shape[1]} bytes do not hold {count} numbers of {bits} bits, as {CONFIG} wants")
    set_bits = np.unpackbits(packed, axis=1)[:, : bits * count].reshape(len(packed), count, bits)
    return set_bits.astype(np.int64) @ (1 << np.arange(bits - 1, -1, -1, dtype=np.int64))
