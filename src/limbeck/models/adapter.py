"""What was trained, made weaker or stronger than it was: LoRA adapters, and models trained whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.errors import InputError, reading
from limbeck.models.references import ADAPTER_WEIGHTS as WEIGHTS
from limbeck.models.references import Reference, load_tokenizer, load_weights, resolve

CONFIG = "adapter_config.json"
# Times the trained effect. Tried from 0.55 to 1 (docs/notebook.md); far above 1 nothing that was trained stands.
STRONGEST = 1.5
# Settings of PEFT with the values under which all that an adapter changes goes with lora_alpha. Others train or
# replace weights that keep their full effect whatever alpha is.
FOLLOWS_ALPHA: dict[str, tuple[Any, ...]] = {
    "use_dora": (False,),
    "bias": ("none",),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None, []),
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
}


def scaled_adapter(source: Path, target: Path, strength: float) -> None:
    """A copy of a PEFT LoRA folder with `strength` times its effect: 1 as trained, 0 the base model.

    The weights are bit for bit the same; alpha is scaled, to which the effect is proportional with rank-stabilised
    LoRA too. Raises InputError for a strength outside [0, 1.5] and, but for 1, an adapter whose effect alpha alone does
    not say.
    """
    _check_range(source, strength)
    config = _config(source)
    if strength != 1 and (complaint := _beyond_alpha(config)):
        raise InputError(f"{source / CONFIG}: {complaint}; train a LoRA adapter with that, or use strength 1")
    config["lora_alpha"] = _times(config["lora_alpha"], strength)
    alphas = config.get("alpha_pattern") or {}
    config["alpha_pattern"] = {name: _times(alpha, strength) for name, alpha in alphas.items()}
    shutil.copytree(source, target, dirs_exist_ok=True)
    (target / CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")


def mixed_adapter(before: Path, after: Path, target: Path, share: float) -> None:
    """A copy of `after`, a PEFT LoRA folder trained on from `before`, with `share` of what that training changed: 1 as
    trained, 0 as before it. The weights are those between both, the adapter of a training that stopped on the way.
    Raises InputError where the one was not trained on from the other.
    """
    from safetensors.torch import load_file, save_file

    shutil.copytree(after, target, dirs_exist_ok=True)
    first, second = (load_file(folder / WEIGHTS) for folder in (before, after))
    if first.keys() != second.keys():
        raise InputError(f"{after / WEIGHTS}: it was not trained on from {before}; their weights have other names")
    save_file({name: first[name].lerp(second[name], share) for name in second}, target / WEIGHTS, {"format": "pt"})


def mixed_model(before: Reference, after: Path, target: Path, share: float) -> None:
    """The model in the folder `after`, trained whole from `before`, with `share` of what that training changed: 1 as
    trained, 0 as before it. In float32. Raises InputError where the one was not trained from the other."""
    import torch

    _check_range(after, share)
    first, second = (load_weights(one, "float32") for one in (before, resolve(str(after))))
    weights = dict(first.named_parameters())
    with torch.no_grad():
        for name, weight in second.named_parameters():
            if name not in weights or weights[name].shape != weight.shape:
                raise InputError(f"{after}: it was not trained from {before.name}, which has no {name} like that")
            weight.copy_(weights[name].lerp(weight, share))
    second.save_pretrained(target)
    load_tokenizer(before).save_pretrained(target)


def _check_range(source: Path, strength: float) -> None:
    if not 0 <= strength <= STRONGEST:
        raise InputError(f"{source}: strength is {strength}; use 0 (the base model) to {STRONGEST}; 1 is as trained")


def is_whole_model(folder: Path) -> bool:
    """Whether a training left a model in the folder, and not an adapter."""
    return (folder / "config.json").is_file()


def can_be_scaled(folder: Path) -> bool:
    """Whether what a training left in the folder can be had at other strengths than it was trained at."""
    return is_whole_model(folder) or _beyond_alpha(_config(folder)) is None


def _beyond_alpha(config: Mapping[str, Any]) -> str | None:
    """What of an adapter does not go with its alpha, and what would."""
    for name, allowed in FOLLOWS_ALPHA.items():
        if (found := config.get(name, allowed[0])) not in allowed:
            return f"'{name}' is {json.dumps(found)}; a strength needs {' or '.join(map(json.dumps, allowed))}"
    return None


def _times(alpha: float, strength: float) -> float:
    """The product, whole where it can be: PEFT calls alpha an int."""
    scaled = alpha * strength
    return int(scaled) if scaled == int(scaled) else scaled


@reading()
def _config(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG
    for needed in (file, folder / WEIGHTS):
        if not needed.is_file():
            raise InputError(f"{needed}: there is no such file; name a folder that PEFT saved with save_pretrained")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        config = None
    is_lora = isinstance(config, dict) and config.get("peft_type") == "LORA"
    if not is_lora or not isinstance(config.get("lora_alpha"), int | float):
        raise InputError(f"{file}: this is no LoRA adapter; name one whose peft_type is LORA, with its lora_alpha")
    return dict(config)
