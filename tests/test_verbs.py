"""Single verbs on the user's own files."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from limbeck.config import RunConfig
from limbeck.errors import InputError
from limbeck.files import Row, lesson_of
from limbeck.losses.cross_entropy import CrossEntropy
from limbeck.losses.unlikelihood import Unlikelihood
from limbeck.records import Lesson
from limbeck.training import TrainSettings
from limbeck.training.student import StudentSettings
from limbeck.verbs import train

USER, ASSISTANT = {"role": "user", "content": "How?"}, {"role": "assistant", "content": "So."}


def lesson(**values: Any) -> Lesson:
    return lesson_of(Row("a.jsonl:1", values))


@pytest.mark.parametrize(
    "values",
    [
        {"prompt": "How?", "completion": "So."},
        {"prompt": "How?", "reply": "So."},
        {"messages": [USER, ASSISTANT]},
        {"prompt": [USER], "completion": [ASSISTANT]},
        {"prompt": "How?", "chosen": "So.", "rejected": "No."},
        {"prompt": [USER], "chosen": [ASSISTANT], "rejected": [{"role": "assistant", "content": "No."}]},
        {"prompt": "How?", "chosen": [USER, ASSISTANT], "rejected": [USER, {"role": "assistant", "content": "No."}]},
    ],
)
def test_rows_as_trl_has_them_are_lessons(values: dict[str, Any]) -> None:
    found = lesson(**values)
    assert (found.prompt.text, found.reply, found.ends, found.weight) == ("How?", "So.", True, 1.0)
    assert found.rejected == (("No.",) if "rejected" in values else ())


def test_a_weight_is_the_share_of_a_lesson() -> None:
    assert lesson(prompt="How?", completion="So.", weight=0.25).weight == 0.25


@pytest.mark.parametrize("weight", ["much", None, -1.0, 3.0])
def test_a_weight_outside_zero_to_one_is_one_message(weight: Any) -> None:
    with pytest.raises(InputError, match=r"a.jsonl:1: 'weight'"):
        lesson(prompt="How?", completion="So.", weight=weight)


def test_the_decision_is_learnt_only_where_a_row_says_what_is_expected() -> None:
    assert lesson(prompt="How?", completion="So.").risk is None
    assert lesson(prompt="How?", completion="No.", harm="bias").risk == 1.0
    assert lesson(prompt="How?", completion="So.", conduct="answer").risk == 0.0
    assert lesson(prompt="How?", completion="So.", harm="bias", tier="safe").risk == 0.0


@pytest.mark.parametrize("values", [{"prompt": "How?"}, {"messages": [USER]}, {"prompt": "How?", "completion": ""}])
def test_a_row_without_a_reply_is_named(values: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"a.jsonl:1: there is no reply; give completion, chosen, or messages"):
        lesson(**values)


def test_a_chat_loses_only_its_last_turn() -> None:
    found = lesson(
        messages=[USER, ASSISTANT, {"role": "user", "content": "And then?"}, {"role": "assistant", "content": "Yes."}]
    )
    assert ([turn.content for turn in found.prompt.messages], found.reply) == (["How?", "So.", "And then?"], "Yes.")


def test_a_lesson_that_exceeds_the_context_is_named_with_its_line_and_its_tokens(
    tiny_model: Path, tmp_path: Path
) -> None:
    # The tiny model reads bytes, 1,024 at most: 'ä' has two. 'How?' in its turn has 23, an end of turn 1.
    rows = [{"prompt": "How?", "completion": "y" * 1000}, {"prompt": "How?", "completion": "ä" * 501}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    learn = TrainSettings(losses=(CrossEntropy(),))
    with pytest.raises(
        InputError, match=r"a.jsonl:2: 'How\?…' has 23 tokens; with 1003 for the reply that exceeds the"
    ):
        train(RunConfig(student=StudentSettings(model=str(tiny_model)), train=learn), tmp_path / "a.jsonl", tmp_path)


def test_a_rejected_reply_counts_where_a_loss_learns_from_it(tiny_model: Path, tmp_path: Path) -> None:
    row = {"prompt": "How?", "chosen": "So.", "rejected": "n" * 1002}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    learn = TrainSettings(losses=(CrossEntropy(), Unlikelihood()), max_steps=1)
    config = RunConfig(student=StudentSettings(model=str(tiny_model)), train=learn)
    with pytest.raises(InputError, match=r"a.jsonl:1 \(rejected\): 'How\?…' has 23 tokens; with 1002 for the reply"):
        train(config, tmp_path / "a.jsonl", tmp_path / "out")
    alone = config.model_copy(update={"train": learn.model_copy(update={"losses": (CrossEntropy(),)})})
    assert train(alone, tmp_path / "a.jsonl", tmp_path / "out").is_dir()


def test_own_rows_are_mixed_in_by_weight_and_every_turn_of_a_chat_can_be_learnt(
    tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "How?", "completion": "So."}) + "\n")
    chat = [USER, ASSISTANT, {"role": "user", "content": "And then?"}, {"role": "assistant", "content": "Yes."}]
    (tmp_path / "own.jsonl").write_text(json.dumps({"messages": chat}) + "\n")
    units = []
    for weight, supervise in ((1.0, "last"), (0.5, "last"), (0.5, "all")):
        extra = {"path": tmp_path / "own.jsonl", "weight": weight}
        values = {"losses": ["cross_entropy"], "max_steps": 1, "batch_lessons": 3 if supervise == "all" else 2}
        learn = TrainSettings.model_validate({**values, "extra": [extra], "supervise": supervise})
        config = RunConfig(student=StudentSettings(model=str(tiny_model)), train=learn)
        train(config, tmp_path / "a.jsonl", tmp_path / f"{weight} {supervise}")
        (file,) = (tmp_path / f"{weight} {supervise}").glob("checkpoint-*/metrics/metrics.jsonl")
        units.append(json.loads(file.read_text())["units"]["cross_entropy"])
    # Bytes and an end: 'So.' has 4 tokens, 'Yes.' 5; with every turn the chat's own 'So.' is a third lesson.
    assert units == [4 + 5, 4 + 0.5 * 5, 4 + 0.5 * 4 + 0.5 * 5]


def test_a_tracker_that_is_not_installed_is_one_message(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else find(name))
    learn = TrainSettings(losses=(CrossEntropy(),), track=("wandb",))
    config = RunConfig(student=StudentSettings(model=str(tiny_model)), train=learn)
    with pytest.raises(InputError, match=r"train.track wandb needs the package wandb; run: pip install wandb"):
        train(config, tmp_path / "a.jsonl", tmp_path / "out")
