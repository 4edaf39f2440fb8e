"""A trained student as files that others load."""

from __future__ import annotations

from pathlib import Path
from shutil import copymode

from limbeck.export.checksums import write_checksums
from limbeck.models.adapter import is_whole_model, mixed_model, scaled_adapter
from limbeck.models.local import Local
from limbeck.models.references import ADAPTER, MERGED, STUDENT, load_merged, load_tokenizer, resolve
from limbeck.protocols import Store
from limbeck.records import Checkpoint


def export(base: Local, checkpoint: Checkpoint, *, store: Store) -> Path:
    """A folder with the student in `student/`."""
    student = store.folder(STUDENT)
    write_student(base.model, checkpoint.folder, student, strength=1.0)
    return student.parent


def write_student(model: str, adapter: Path, folder: Path, *, strength: float) -> None:
    """The model with `strength` times the adapter: `adapter/` (PEFT), `merged/` (plain transformers, safetensors,
    float32, tokenizer) and the SHA256SUMS of both. Where the model was trained whole, `adapter` is its folder, and
    there is no adapter beside the merged one."""
    reference = resolve(model)
    if is_whole_model(adapter):
        mixed_model(reference, adapter, folder / MERGED, strength)
    else:
        scaled_adapter(adapter, folder / ADAPTER, strength)
        load_merged(reference, folder / ADAPTER, called=adapter).save_pretrained(folder / MERGED)
        load_tokenizer(reference).save_pretrained(folder / MERGED)
    # safetensors lets nobody but the writer read what it writes; a server often is somebody else.
    for weights in folder.rglob("*.safetensors"):
        settings = "adapter_config.json" if weights.parent.name == ADAPTER else "config.json"
        copymode(weights.with_name(settings), weights)
    write_checksums(folder)
