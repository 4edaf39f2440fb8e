"""A trained student as files that others load."""

from __future__ import annotations

import shutil
from pathlib import Path

from limbeck.models.local import Local
from limbeck.models.references import load_tokenizer, load_weights, resolve
from limbeck.protocols import Store
from limbeck.records import Checkpoint


def export(base: Local, checkpoint: Checkpoint, *, store: Store) -> Path:
    """A folder with `adapter/` (PEFT) and `merged/` (plain transformers, safetensors, float32, tokenizer)."""
    from peft import PeftModel

    adapter, merged = store.folder("adapter"), store.folder("merged")
    shutil.copytree(checkpoint.folder, adapter, dirs_exist_ok=True)
    reference = resolve(base.model)
    weights = PeftModel.from_pretrained(load_weights(reference, "float32"), checkpoint.folder).merge_and_unload()
    weights.save_pretrained(merged)
    load_tokenizer(reference).save_pretrained(merged)
    return adapter.parent
