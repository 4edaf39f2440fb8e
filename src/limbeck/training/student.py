"""The student: a frozen backbone with a low-rank adapter on it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from limbeck.errors import InputError
from limbeck.losses.contrast import Contrast
from limbeck.losses.noise_consistency import NoiseConsistency
from limbeck.losses.spec import Loss
from limbeck.models.local import Local
from limbeck.models.precision import Precision
from limbeck.models.references import SHORT_NAMES, load_tokenizer, load_weights, resolve
from limbeck.spec import ModelName, Spec

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase


class AdapterSettings(Spec):
    """LoRA (Hu et al. 2021, arXiv:2106.09685). Layers below `first_layer` get none, so that the backward pass
    ends there; `alpha` is twice the rank where it is not given."""

    rank: int = Field(default=16, ge=1)
    alpha: int | None = Field(default=None, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    first_layer: int = Field(default=0, ge=0)


class StudentSettings(Spec):
    """The model that learns, by folder, Hub id or short name, and the adapter that it gets.

    `dtype` is what it computes in when it replies and is measured.
    """

    model: ModelName
    adapter: AdapterSettings = AdapterSettings()
    dtype: Precision = "float32"

    def untrained(self) -> Local:
        """The model as it is before any lesson."""
        return Local(name="base", model=self.model, dtype=self.dtype)

    def trained(self, name: str, adapter: Path) -> Local:
        """The model with an adapter."""
        return Local(name=name, model=self.model, dtype=self.dtype, adapter=adapter)


class Student:
    """Backbone, adapter and tokenizer, ready to train."""

    def __init__(self, settings: StudentSettings, *, start_from: Path | None, precision: Precision, seed: int) -> None:
        import torch
        from peft import LoraConfig, PeftModel, get_peft_model

        reference = resolve(settings.model)
        self.name = settings.model
        self.identity = reference.identity
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(reference)
        # PEFT keeps the adapter in float32 whatever the backbone is in.
        backbone = load_weights(reference, precision)
        self.context = int(backbone.config.get_text_config().max_position_embeddings)
        torch.manual_seed(seed)
        if start_from is not None:
            self.model: Any = PeftModel.from_pretrained(backbone, start_from, is_trainable=True)
        else:
            adapter = settings.adapter
            layers = backbone.config.get_text_config().num_hidden_layers
            if adapter.first_layer >= layers:
                raise InputError(
                    f"student.adapter.first_layer is {adapter.first_layer}; {settings.model} has the layers 0 to "
                    f"{layers - 1}"
                )
            config = LoraConfig(
                task_type="CAUSAL_LM",
                r=adapter.rank,
                lora_alpha=adapter.alpha or 2 * adapter.rank,
                lora_dropout=adapter.dropout,
                target_modules=_linear_names(backbone) if adapter.target == "all-linear" else list(adapter.target),
                layers_to_transform=list(range(adapter.first_layer, layers)) if adapter.first_layer else None,
            )
            try:
                self.model = get_peft_model(backbone, config)
            except ValueError as error:
                raise InputError(
                    f"student.adapter.target: {', '.join(config.target_modules or ())} are not all layers of "
                    f"{settings.model}; use all-linear, or of {', '.join(_linear_names(backbone))}"
                ) from error

    def trainable(self) -> list[nn.Parameter]:
        """The adapter's parameters."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def check_layers(self, losses: Sequence[Loss]) -> None:
        """Raises InputError where a loss looks at a layer that the model does not have."""
        layers = self.model.get_base_model().config.get_text_config().num_hidden_layers
        for loss in losses:
            named = loss.layers if isinstance(loss, Contrast) else ()
            if isinstance(loss, NoiseConsistency) and loss.noise.on == "hidden":
                named = (loss.noise.layer,)
            for layer in named:
                if not 0 <= layer < layers:
                    raise InputError(f"loss '{loss.kind}' looks at layer {layer}; {self.name} has 0 to {layers - 1}")

    def save(self, folder: Path) -> None:
        """The adapter and the tokenizer. The base is called as it is elsewhere, not by where it lies here."""
        wheel = SHORT_NAMES.get(self.name)
        for config in self.model.peft_config.values():
            config.base_model_name_or_path = wheel.hub_name if wheel is not None else self.name
        # The embeddings are frozen; left to itself PEFT would ask the Hub whether they changed.
        self.model.save_pretrained(folder, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)
        self.tokenizer.save_pretrained(folder)

    def frozen_hash(self) -> str:
        """Hash of every parameter that must not change."""
        import torch

        digest = hashlib.sha256()
        for name, parameter in self.model.named_parameters():
            if not parameter.requires_grad:
                digest.update(name.encode())
                digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def _linear_names(backbone: Any) -> list[str]:
    """The names of the linear layers inside the decoder, the output head left out."""
    from torch import nn

    decoder = backbone.get_decoder()
    return sorted({name.rpartition(".")[2] for name, part in decoder.named_modules() if isinstance(part, nn.Linear)})
