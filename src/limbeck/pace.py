"""How fast this machine runs a model: timed on a few of its layers with random weights.

The speed of a product says little of it: where products are fast (AMX), what stands between them takes most of the
time. Axes: B rows, T tokens.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from limbeck.models.precision import Precision, torch_type
from limbeck.models.references import files_of, resolve
from limbeck.training.student import AdapterSettings, StudentSettings, new_adapter

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

# A model's other layers take as long as these.
LAYERS = 2
# Ids enough for a stream of tokens, and an embedding that takes no time.
VOCABULARY = 256
# The fastest of all tries in so many seconds, after one that sets up what the first needs.
TIMED_S = 0.2
# What a reply is written after, in tokens.
BEFORE = 64


@cache
def product_s(shape: tuple[int, int], precision: Precision, tokens: int) -> float:
    """Seconds for the product of so many tokens with weights of this shape, inputs and outputs."""
    import torch

    weights = torch.randn(shape[1], shape[0], dtype=torch_type(precision), device=_device())
    inputs = torch.randn(tokens, shape[0], dtype=torch_type(precision), device=_device())
    with torch.inference_mode():
        return _fastest(partial(torch.nn.functional.linear, inputs, weights))


@cache
def reading_s(model: str, precision: Precision, tokens: int) -> float:
    """Seconds for a layer of the model to read so many tokens."""
    import torch

    layers = _few_layers(model, precision)
    with torch.inference_mode():
        return _fastest(partial(layers.get_decoder(), _ids(1, tokens), use_cache=False)) / LAYERS


@cache
def writing_s(model: str, precision: Precision, rows: int) -> float:
    """Seconds for a layer of the model to write a token of each of so many replies."""
    import torch

    from limbeck.models.prefill import prefill

    decoder = _few_layers(model, precision).get_decoder()
    with torch.inference_mode():
        cache, mask_BT, _ = prefill(decoder, _ids(rows, BEFORE).tolist(), pad=0)

        def write() -> None:
            longer_BT = mask_BT.new_ones(rows, cache.get_seq_length() + 1)
            decoder(_ids(rows, 1), attention_mask=longer_BT, past_key_values=cache, use_cache=True)

        return _fastest(write) / LAYERS


@cache
def training_s(model: str, adapter: AdapterSettings, precision: Precision, tokens: int) -> float:
    """Seconds for a layer of the model to read so many tokens, and for its gradients, with this adapter on the layers
    from the first on."""
    import torch
    from peft.helpers import disable_input_dtype_casting

    layers: Any = _few_layers(model, precision)
    decoder = layers.get_decoder()
    if adapter.kind != "none":
        # It is put into the layers where they are.
        layers = new_adapter(layers, StudentSettings(model=model, adapter=adapter))

    def learn() -> None:
        with torch.autocast(_device(), dtype=torch_type(precision), enabled=precision != "float32"):
            decoder(_ids(1, tokens), use_cache=False).last_hidden_state.sum().backward()

    with disable_input_dtype_casting(layers, active=adapter.takes_any_input):
        return _fastest(learn) / LAYERS


def _few_layers(model: str, precision: Precision) -> PreTrainedModel:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(files_of(resolve(model), weights=False))
    text = config.get_text_config()
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:LAYERS]
    text.num_hidden_layers = LAYERS
    text.vocab_size, text.pad_token_id = VOCABULARY, None
    made: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch_type(precision)).eval()
    return made.to(_device())


def _ids(rows: int, tokens: int) -> Tensor:
    import torch

    return torch.arange(rows * tokens, device=_device()).view(rows, tokens) % VOCABULARY


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _fastest(work: Callable[[], object]) -> float:
    import torch

    work()
    fastest, started = math.inf, time.perf_counter()
    while time.perf_counter() - started < TIMED_S or fastest == math.inf:
        before = time.perf_counter()
        work()
        if _device() == "cuda":
            torch.cuda.synchronize()
        fastest = min(fastest, time.perf_counter() - before)
    return fastest
