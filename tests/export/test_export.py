"""A trained student as files that others load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from limbeck.export import export, write_student
from limbeck.export.checksums import verify
from limbeck.judges.grade import GradeSettings
from limbeck.losses.cross_entropy import CrossEntropy
from limbeck.models.local import Local
from limbeck.records import Checkpoint, Lesson, Prompt, Request, asked
from limbeck.training import TrainSettings
from limbeck.training.loop import train
from limbeck.training.student import AdapterSettings, StudentSettings
from limbeck.workspace import StageStore

QUESTION = Request(messages=asked("How do I do it?"), max_tokens=16)


@pytest.fixture
def student(tiny_model: Path) -> StudentSettings:
    return StudentSettings(model=str(tiny_model), adapter=AdapterSettings(rank=4))


@pytest.fixture
def checkpoint(student: StudentSettings, store: StageStore) -> Checkpoint:
    return trained(student, store)


def trained(student: StudentSettings, store: StageStore) -> Checkpoint:
    lessons = [Lesson(prompt=Prompt(messages=QUESTION.messages), reply="Take one step.")]
    learn = TrainSettings(losses=(CrossEntropy(),), max_steps=60, batch_lessons=1, learning_rate=3e-2)
    return train(
        learn, student, lessons, None, None, (), GradeSettings(), store=replace(store, root=store.root / "train")
    )


def said(model: Local) -> str:
    with model.open() as opened:
        return next(opened.replies([QUESTION])).text


def test_the_student_says_what_it_was_taught_and_the_base_does_not(
    student: StudentSettings, checkpoint: Checkpoint
) -> None:
    assert said(student.trained("student", checkpoint.folder)) == "Take one step."
    assert said(student.untrained()) != "Take one step."


def test_the_merged_model_loads_in_plain_transformers_and_says_the_same(
    student: StudentSettings, checkpoint: Checkpoint, store: StageStore
) -> None:
    folder = export(student.untrained(), checkpoint, store=store) / "student"
    model = AutoModelForCausalLM.from_pretrained(folder / "merged")
    tokenizer = AutoTokenizer.from_pretrained(folder / "merged")
    turns = [{"role": "user", "content": QUESTION.messages[0].content}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False)])
    new = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False)[
        0, ids.shape[1] :
    ]
    assert tokenizer.decode(new, skip_special_tokens=True) == "Take one step."
    assert said(Local(model=str(folder / "merged"))) == "Take one step."


def test_the_adapter_is_beside_it_in_peft_format_and_the_weights_are_safetensors(
    student: StudentSettings, checkpoint: Checkpoint, store: StageStore
) -> None:
    folder = export(student.untrained(), checkpoint, store=store) / "student"
    assert (folder / "adapter" / "adapter_config.json").is_file()
    assert list((folder / "merged").glob("*.safetensors")) and not list((folder / "merged").glob("*.bin"))
    assert verify(folder) == sum(len(list((folder / part).iterdir())) for part in ("adapter", "merged"))


@pytest.mark.parametrize("kind", ["dora", "none"])
def test_what_is_no_lora_adapter_is_exported_as_it_was_trained(
    tiny_model: Path, store: StageStore, kind: Literal["dora", "none"]
) -> None:
    student = StudentSettings(model=str(tiny_model), adapter=AdapterSettings(kind=kind))
    made = trained(student, store)
    folder = export(student.untrained(), made, store=store) / "student"
    assert said(student.trained("student", made.folder)) == "Take one step."
    assert said(Local(model=str(folder / "merged"))) == "Take one step."
    # A model that was trained whole has no adapter.
    assert {one.name for one in folder.iterdir()} - {"adapter"} == {"merged", "SHA256SUMS"}
    assert (folder / "adapter").is_dir() == (kind == "dora")


@pytest.mark.parametrize("strength", [0, 1])
def test_at_strength_0_the_student_says_what_the_base_says_and_at_1_what_it_was_taught(
    student: StudentSettings, checkpoint: Checkpoint, tmp_path: Path, strength: float
) -> None:
    write_student(student.model, checkpoint.folder, tmp_path / "out", strength=strength)
    wanted = "Take one step." if strength else said(student.untrained())
    assert said(Local(model=str(tmp_path / "out" / "merged"))) == wanted
    assert said(Local(model=student.model, adapter=tmp_path / "out" / "adapter")) == wanted


def test_whoever_may_read_the_settings_may_read_the_weights(
    student: StudentSettings, checkpoint: Checkpoint, store: StageStore
) -> None:
    folder = export(student.untrained(), checkpoint, store=store) / "student"
    adapter, merged = folder / "adapter", folder / "merged"
    for settings, weights in (
        (adapter / "adapter_config.json", adapter / "adapter_model.safetensors"),
        (merged / "config.json", merged / "model.safetensors"),
    ):
        assert weights.stat().st_mode == settings.stat().st_mode
