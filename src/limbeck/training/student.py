"""The student: a frozen backbone with a low-rank adapter on it, or a model that is trained whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from limbeck.errors import InputError, check_installed
from limbeck.losses.spec import Loss
from limbeck.models.local import Local
from limbeck.models.precision import Precision, torch_type
from limbeck.models.reasoning import Reasoning
from limbeck.models.references import SHORT_NAMES, load_tokenizer, load_weights, resolve, with_adapter
from limbeck.protocols import LiveTeacher
from limbeck.spec import ModelName, Spec
from limbeck.training.whole import Whole

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class AdapterSettings(Spec):
    """What is trained: `lora` (Hu et al. 2021, arXiv:2106.09685), `dora` (Liu et al. 2024, arXiv:2402.09353), `qlora`,
    which is LoRA on a backbone that is kept in NF4 while it trains (Dettmers et al. 2023, arXiv:2305.14314), or with
    `none` the whole model.

    Layers below `first_layer` get no adapter, so that the backward pass ends there; `alpha` is twice the rank where it
    is not given.
    """

    elsewhere = MappingProxyType({
        "r": "rank",
        "lora_r": "rank",
        "lora_alpha": "alpha",
        "lora_dropout": "dropout",
        "target_modules": "target",
        "lora_target": "target",
        "use_dora": "kind: dora",
        "load_in_4bit": "kind: qlora",
        "layers_to_transform": "first_layer (all layers from it on)",
    })  # fmt: skip

    kind: Literal["lora", "dora", "qlora", "none"] = "lora"
    rank: int = Field(default=16, ge=1)
    alpha: int | None = Field(default=None, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    first_layer: int = Field(default=0, ge=0)

    @property
    def takes_any_input(self) -> bool:
        """Whether inputs may come in the type that the backbone computes in: DoRA sums whole weights in theirs."""
        return self.kind in ("lora", "qlora")

    @model_validator(mode="after")
    def _belongs_to_an_adapter(self) -> Self:
        for name, field in type(self).model_fields.items() if self.kind == "none" else ():
            if name != "kind" and getattr(self, name) != field.default:
                raise ValueError(f"'{name}' belongs to an adapter, and kind is none; leave it out or use kind: lora")
        return self


class StudentSettings(Spec):
    """The model that learns, by folder, Hub id or short name, and what of it is trained.

    `dtype` is what it computes in when it replies and is measured; `reasoning` tells its reasoning, where it learns to
    reason, from its answers.
    """

    model: ModelName
    adapter: AdapterSettings = AdapterSettings()
    dtype: Precision = "float32"
    reasoning: Reasoning = Reasoning()

    def untrained(self) -> Local:
        """The model as it is before any lesson."""
        return Local(name="base", model=self.model, dtype=self.dtype, reasoning=self.reasoning)

    def trained(self, name: str, folder: Path) -> Local:
        """The model as a training left it in the folder."""
        return self.untrained().trained(name, folder)


class Student:
    """Backbone, what is trained of it or on it, and tokenizer, ready to train."""

    def __init__(self, settings: StudentSettings, *, start_from: Path | None, precision: Precision, seed: int) -> None:
        import torch

        self.reference = resolve(settings.model)
        self.name = settings.model
        self.reasoning = settings.reasoning
        self.identity = self.reference.identity
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(self.reference)
        self.takes_any_input = settings.adapter.takes_any_input
        kind = settings.adapter.kind
        if kind == "none":
            begins = self.reference if start_from is None else resolve(str(start_from))
            # Steps are smaller than what half precision can add to a weight.
            backbone = load_weights(begins, "float32")
            self.model: Any = Whole(backbone, computes_in=torch_type(precision))
        else:
            if kind == "qlora":
                check_installed("bitsandbytes", wanted_by="student.adapter.kind qlora")
            # PEFT keeps the adapter in float32 whatever the backbone is in.
            backbone = load_weights(self.reference, precision, four_bits=kind == "qlora")
            torch.manual_seed(seed)
            self.model = (
                new_adapter(backbone, settings)
                if start_from is None
                else with_adapter(backbone, start_from, of=self.reference, trainable=True)
            )
        self.context = int(backbone.config.get_text_config().max_position_embeddings)

    def keep_untrained(self) -> None:
        """The model before any training can be read beside the one that is trained; below an adapter it always can."""
        import torch

        if isinstance(self.model, Whole):
            untrained = load_weights(self.reference, "float32").requires_grad_(False)
            self.model.untrained = (untrained.to("cuda" if torch.cuda.is_available() else "cpu"),)

    def share_with(self, weights: PreTrainedModel) -> None:
        """Lets tensors of other weights that are bit for bit frozen ones of the student's be these: a student that is
        its own teacher is in memory once."""
        import torch

        # PEFT calls the layer below an adapter so.
        mine = {
            name.replace(".base_layer.", "."): parameter
            for name, parameter in self.model.get_base_model().named_parameters()
            if not parameter.requires_grad
        }
        for name, parameter in weights.named_parameters():
            frozen = mine.get(name)
            if frozen is None or (frozen.dtype, frozen.device) != (parameter.dtype, parameter.device):
                continue
            if torch.equal(frozen, parameter):
                parameter.data = frozen.data

    def checkpoint_activations(self) -> None:
        """The backward pass computes each layer anew: less memory, more time."""
        self.model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})

    @contextmanager
    def without_casts(self) -> Iterator[None]:
        """For passes under autocast, which hands LoRA its inputs in the type that it computes in: PEFT would cast them
        to float32 first, for nothing. DoRA keeps the cast.

        The backward pass belongs inside, for layers may be computed anew in it.
        """
        from peft.helpers import disable_input_dtype_casting

        with disable_input_dtype_casting(self.model, active=self.takes_any_input):
            yield

    def trainable(self) -> list[nn.Parameter]:
        """The parameters that change."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def save(self, folder: Path) -> None:
        """The adapter, or the whole model where that is trained, and the tokenizer. An adapter calls its base as it is
        called elsewhere, not by where it lies here."""
        self.tokenizer.save_pretrained(folder)
        if isinstance(self.model, Whole):
            self.model.backbone.save_pretrained(folder)
            return
        wheel = SHORT_NAMES.get(self.name)
        for config in self.model.peft_config.values():
            config.base_model_name_or_path = wheel.hub_name if wheel is not None else self.name
        # The embeddings are frozen; left to itself PEFT would ask the Hub whether they changed.
        self.model.save_pretrained(folder, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)

    def frozen_hash(self) -> str:
        """Hash of every parameter that must not change."""
        import torch

        digest = hashlib.sha256()
        for name, parameter in self.model.named_parameters():
            if not parameter.requires_grad:
                digest.update(name.encode())
                digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def check_layers(losses: Sequence[Loss], learner: Student, live: LiveTeacher | None) -> None:
    """Raises InputError where a loss looks at a layer that the student or its live teacher does not have."""
    for loss in losses:
        disturbed = [loss.under.layer] if loss.under is not None and loss.under.on == "hidden" else []
        paired = [student for student, _ in loss.layer_pairs]
        looked_at = [*loss.student_layers, *disturbed, *paired]
        _check_layers(loss, looked_at, of=learner.model.get_base_model(), name=learner.name)
        if live is not None:
            told = [teacher for _, teacher in loss.layer_pairs]
            _check_layers(loss, told, of=live.weights, name=f"teacher '{live.name}'")


def _check_layers(loss: Loss, looked_at: Sequence[int], *, of: Any, name: str) -> None:
    layers = of.config.get_text_config().num_hidden_layers
    for layer in looked_at:
        if not 0 <= layer < layers:
            raise InputError(f"loss '{loss.kind}' looks at layer {layer}; {name} has 0 to {layers - 1}")


def new_adapter(backbone: PreTrainedModel, settings: StudentSettings) -> Any:
    """The model with a new adapter on it. Raises InputError where it does not fit."""
    from peft import LoraConfig, get_peft_model

    adapter = settings.adapter
    layers = backbone.config.get_text_config().num_hidden_layers
    if adapter.first_layer >= layers:
        raise InputError(
            f"student.adapter.first_layer is {adapter.first_layer}; {settings.model} has the layers 0 to {layers - 1}"
        )
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=adapter.rank,
        lora_alpha=adapter.alpha or 2 * adapter.rank,
        lora_dropout=adapter.dropout,
        use_dora=adapter.kind == "dora",
        target_modules=_linear_names(backbone) if adapter.target == "all-linear" else list(adapter.target),
        layers_to_transform=list(range(adapter.first_layer, layers)) if adapter.first_layer else None,
    )
    # Losses take the output head as it is: what an adapter adds to it would go unlearnt.
    if unknown := set(config.target_modules or ()) - set(_linear_names(backbone)):
        raise InputError(
            f"student.adapter.target: {', '.join(sorted(unknown))} are not all layers of the decoder of "
            f"{settings.model}; use all-linear, or of {', '.join(_linear_names(backbone))}"
        )
    return get_peft_model(backbone, config)


def _linear_names(backbone: Any) -> list[str]:
    """The names of the linear layers inside the decoder, the output head left out."""
    from torch import nn

    decoder = backbone.get_decoder()
    return sorted({name.rpartition(".")[2] for name, part in decoder.named_modules() if isinstance(part, nn.Linear)})
