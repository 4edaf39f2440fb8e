"""The number type that a model computes in."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator

if TYPE_CHECKING:
    import torch


Computed = Literal["float32", "bfloat16", "float16"]


def meant_here(precision: Literal["auto"] | Computed) -> Computed:
    """What is computed in on this machine: `auto` is bfloat16 where it multiplies in it, else float32."""
    if precision != "auto":
        return precision
    return "bfloat16" if _multiplies_in_bfloat16() else "float32"


# Decided when a recipe is read, so that the saved recipe and every stage's key say what was really computed in.
Decided = AfterValidator(meant_here)
Precision = Annotated[Literal["auto", "float32", "bfloat16", "float16"], Decided]


def torch_type(precision: Precision) -> torch.dtype:
    """The type by its name in torch."""
    import torch

    return getattr(torch, precision)


def _multiplies_in_bfloat16() -> bool:
    """Whether bfloat16 is fast here: a CPU that emulates it is far slower than in float32 (docs/notebook.md)."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Where torch cannot say, float32 is right everywhere.
    return any(has for name, has in processor().items() if name.endswith("bf16"))


def processor() -> dict[str, Any]:
    """What torch tells of the processor, by its own names; nothing where it tells nothing (torch 2.9)."""
    import torch

    capabilities: Callable[[], dict[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    return capabilities()
