"""Distil a small language model from aligned teachers, keep its safety, and prove both."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from limbeck.version import __version__ as __version__

# oneDNN (bf16 on CPU) keeps a compiled primitive for every shape it meets, 1024 of them: batches by length then grow
# a training by gigabytes. Read once, before the first matrix product; a larger cache was not faster.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")

if TYPE_CHECKING:
    from limbeck.config import RunConfig as RunConfig
    from limbeck.config import load_config as load_config
    from limbeck.errors import LimbeckError as LimbeckError
    from limbeck.evaluation.spec import Evaluator as Evaluator
    from limbeck.losses.spec import Loss as Loss
    from limbeck.pipeline import run as run
    from limbeck.protocols import ChatModel as ChatModel
    from limbeck.protocols import Judge as Judge
    from limbeck.records import Lesson as Lesson
    from limbeck.records import Prompt as Prompt
    from limbeck.records import Scorecard as Scorecard
    from limbeck.taxonomy import Harm as Harm
    from limbeck.verbs import evaluate as evaluate
    from limbeck.verbs import train as train

_HOMES = {
    "run": "pipeline",
    "train": "verbs",
    "evaluate": "verbs",
    "load_config": "config",
    "RunConfig": "config",
    "Harm": "taxonomy",
    "Prompt": "records",
    "Lesson": "records",
    "Scorecard": "records",
    "ChatModel": "protocols",
    "Judge": "protocols",
    "Loss": "losses.spec",
    "Evaluator": "evaluation.spec",
    "LimbeckError": "errors",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Public names are imported on first use, so that `limbeck --help` need not load torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'limbeck' has no attribute '{name}'")
    return getattr(importlib.import_module(f"limbeck.{_HOMES[name]}"), name)
