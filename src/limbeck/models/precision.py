"""The number type that a model computes in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

# `auto` is bfloat16 where the machine multiplies in it, else float32.
Precision = Literal["auto", "float32", "bfloat16", "float16"]


def torch_type(precision: Precision) -> torch.dtype:
    """The type that is meant on this machine."""
    import torch

    if precision == "auto":
        return torch.bfloat16 if _multiplies_in_bfloat16() else torch.float32
    return getattr(torch, precision)


def _multiplies_in_bfloat16() -> bool:
    """Whether bfloat16 is fast here: a CPU that emulates it is some sixty times slower than in float32."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # torch 2.9 cannot say; float32 is right everywhere.
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(has for name, has in capabilities.items() if name.endswith("bf16"))
