"""How long this machine takes for a model's work: timed on its first layers with random weights.

The speed of a product says little of it: where products are fast (AMX), what stands between them takes most of the
time (docs/notebook.md). Axes: B rows, T tokens.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING, Any

from limbeck.models.precision import Precision, torch_type
from limbeck.training.student import AdapterSettings, StudentSettings, new_adapter

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

# All layers count as long as the mean of these first ones.
LAYERS = 2
# Ids enough for a stream of tokens, and an embedding that takes no time.
VOCABULARY = 256
# The fastest of all tries in so many seconds, after one that sets up what the first needs.
TIMED_S = 0.2
# What a reply is written after, in tokens.
BEFORE = 64


class NotKnown(Exception):
    """Why a model cannot be estimated."""


@cache
def product_s(shape: tuple[int, int], precision: Precision, tokens: int) -> float:
    """Seconds for the product of so many tokens with weights of this shape, inputs and outputs."""
    import torch

    weights = torch.randn(shape[1], shape[0], dtype=torch_type(precision), device=_device())
    inputs = torch.randn(tokens, shape[0], dtype=torch_type(precision), device=_device())
    with torch.inference_mode():
        return _fastest(partial(torch.nn.functional.linear, inputs, weights))


@cache
def reading_s(folder: str, precision: Precision, tokens: int) -> float:
    """Seconds for a layer of the model in the folder to read so many tokens. Raises NotKnown."""
    import torch

    model = _to_read(folder, precision)
    with torch.inference_mode():
        return _a_layer(model, partial(model.get_decoder(), _ids(1, tokens), use_cache=False))


@cache
def writing_s(folder: str, precision: Precision, rows: int) -> float:
    """Seconds for a layer of the model to write a token of each of so many replies. Raises NotKnown."""
    import torch

    from limbeck.models.prefill import prefill

    model = _to_read(folder, precision)
    decoder = model.get_decoder()
    with torch.inference_mode():
        cache, mask_BT, _ = prefill(decoder, _ids(rows, BEFORE).tolist(), pad=0)

        def write() -> None:
            longer_BT = mask_BT.new_ones(rows, cache.get_seq_length() + 1)
            decoder(_ids(rows, 1), attention_mask=longer_BT, past_key_values=cache, use_cache=True)

        return _a_layer(model, write)


@cache
def training_s(folder: str, adapter: AdapterSettings, precision: Precision, tokens: int) -> float:
    """Seconds for a layer of the model to read so many tokens, and for its gradients, with this adapter on the layers
    from the first on; QLoRA as LoRA on whole weights. Raises NotKnown."""
    import torch
    from peft.helpers import disable_input_dtype_casting

    # A model that is trained whole keeps its weights in float32.
    model = _first_layers(folder, "float32" if adapter.kind == "none" else precision)
    decoder, trained = model.get_decoder(), model
    if adapter.kind != "none":
        # It is put into the layers where they are.
        trained = new_adapter(model, StudentSettings(model=folder, adapter=adapter))

    def learn() -> None:
        with torch.autocast(_device(), dtype=torch_type(precision), enabled=precision != "float32"):
            decoder(_ids(1, tokens), use_cache=False).last_hidden_state.sum().backward()

    with disable_input_dtype_casting(trained, active=adapter.takes_any_input):
        return _a_layer(model, learn)


@lru_cache(maxsize=1)
def _to_read(folder: str, precision: Precision) -> Any:
    return _first_layers(folder, precision)


def _first_layers(folder: str, precision: Precision) -> PreTrainedModel:
    """The model with random weights, and no more layers than are timed. Raises NotKnown where it cannot be cut."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from limbeck.models.attention import quicken_attention
    from limbeck.models.products import quicken_products

    config = AutoConfig.from_pretrained(folder)
    text = config.get_text_config()
    try:
        text.num_hidden_layers = min(LAYERS, text.num_hidden_layers)
        if getattr(text, "layer_types", None):
            text.layer_types = text.layer_types[: text.num_hidden_layers]
        text.vocab_size, text.pad_token_id = VOCABULARY, None
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch_type(precision))
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise NotKnown(f"{folder} cannot be cut to its first layers to time them ({error})") from error
    quicken_attention(model)
    quicken_products(model)
    return model.eval().to(_device())


def _ids(rows: int, tokens: int) -> Tensor:
    import torch

    return torch.arange(rows * tokens, device=_device()).view(rows, tokens) % VOCABULARY


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _a_layer(model: PreTrainedModel, work: Callable[[], object]) -> float:
    return _fastest(work) / model.config.get_text_config().num_hidden_layers


def _fastest(work: Callable[[], object]) -> float:
    _timed(work)
    fastest, started = math.inf, time.perf_counter()
    while time.perf_counter() - started < TIMED_S or fastest == math.inf:
        fastest = min(fastest, _timed(work))
    return fastest


def _timed(work: Callable[[], object]) -> float:
    import torch

    before = time.perf_counter()
    work()
    if _device() == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - before
