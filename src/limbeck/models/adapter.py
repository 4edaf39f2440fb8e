"""LoRA adapters made weaker or stronger than they were trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from limbeck.errors import InputError, reading

# Times the trained effect. Tried from 0.55 to 1 (docs/notebook.md); far above 1 nothing that was trained stands.
WEIGHTS = "adapter_model.safetensors"
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
    LoRA too. Raises InputError for a strength outside [0, 1.5] and an adapter whose effect alpha alone does not say.
    """
    if not 0 <= strength <= STRONGEST:
        raise InputError(f"{source}: strength is {strength}; use 0 (the base model) to {STRONGEST}; 1 is as trained")
    config = _config(source)
    config["lora_alpha"] = _times(config["lora_alpha"], strength)
    alphas = config.get("alpha_pattern") or {}
    config["alpha_pattern"] = {name: _times(alpha, strength) for name, alpha in alphas.items()}
    shutil.copytree(source, target, dirs_exist_ok=True)
    (target / "adapter_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


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


def _times(alpha: float, strength: float) -> float:
    """The product, whole where it can be: PEFT calls alpha an int."""
    scaled = alpha * strength
    return int(scaled) if scaled == int(scaled) else scaled


@reading()
def _config(folder: Path) -> dict[str, Any]:
    file = folder / "adapter_config.json"
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
    for name, allowed in FOLLOWS_ALPHA.items():
        if (found := config.get(name, allowed[0])) not in allowed:
            raise InputError(
                f"{file}: '{name}' is {json.dumps(found)}; a strength needs {' or '.join(map(json.dumps, allowed))}; "
                "train a LoRA adapter with that"
            )
    return dict(config)
