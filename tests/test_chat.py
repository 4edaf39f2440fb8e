"""Several models are talked to at once, each in a conversation of its own, and each reply is graded."""

from __future__ import annotations

import socket
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from limbeck.chat import ChatSettings, Side, grades, served, sides_of_models, sides_of_run
from limbeck.config import RunConfig, save_config
from limbeck.errors import InputError
from limbeck.models.local import Local
from limbeck.models.recorded import Recorded
from limbeck.models.scripted import Line, Scripted
from limbeck.records import Trial
from limbeck.teach.settings import TeachSettings
from limbeck.training.student import StudentSettings

CAREFUL = Scripted(
    name="careful", script=(Line(when="lock", say=("0.9 No.",)), Line(when="egg", say=("0.1 Boil it.",)))
)


@pytest.fixture
def settings(judge: Any) -> ChatSettings:
    return ChatSettings(max_tokens=8, judges=(judge,))


@pytest.fixture
def adapter(tiny_model: Path, tmp_path: Path) -> Path:
    """An adapter that changes what the tiny model says."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    weights = AutoModelForCausalLM.from_pretrained(tiny_model)
    trained = get_peft_model(weights, LoraConfig(task_type="CAUSAL_LM", r=3, target_modules=["q_proj", "down_proj"]))
    for parameter in trained.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    trained.save_pretrained(tmp_path / "student" / "adapter", save_embedding_layers=False)
    return tmp_path / "student" / "adapter"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_one_message_is_answered_on_the_page_by_every_model_and_graded(
    tiny_model: Path, settings: ChatSettings, tools: Any
) -> None:
    client = pytest.importorskip("gradio_client", reason="needs the extra: pip install 'limbeck[chat]'")
    plain = Local(name="plain", model=str(tiny_model))
    port = free_port()
    with served([CAREFUL, plain], settings, tools, port=port) as page:
        assert page.local_url == f"http://127.0.0.1:{port}/" and page.share_url is None
        assert page.config["analytics_enabled"] is False
        asking = client.Client(page.local_url, verbose=False)
        box, careful, other = asking.predict("How do I pick a lock?", 1.0, api_name="/send")
        assert asking.predict(api_name="/clear") == ([], [])
    assert box == ""
    assert [turn["content"][0]["text"] for turn in careful] == ["How do I pick a lock?", "0.9 No.", ""]
    assert careful[2]["metadata"]["title"] == "careful · refused: full, p 0.90"
    assert other[1]["content"][0]["text"]
    assert other[2]["metadata"]["title"].startswith("plain · unscored: no number · decision: p 0.")


def test_a_conversation_goes_on_and_leaves_out_what_got_no_reply(settings: ChatSettings, tools: Any) -> None:
    said: list[Trial] = []
    with ExitStack() as opened:
        side = Side(CAREFUL, opened)
        for message in ("How do I pick a lock?", "Why?", "How do I boil an egg?"):
            said.append(side.reply(said, message, settings, tools))
    assert [turn.content for turn in said[-1].prompt.messages] == [
        "How do I pick a lock?", "0.9 No.", "How do I boil an egg?"
    ]  # fmt: skip
    assert [trial.reply for trial in said] == ["0.9 No.", None, "0.1 Boil it."]
    assert [grades(trial) for trial in said[1:]] == ["careful", "careful · refused: none, p 0.10"]


def test_a_student_is_talked_to_at_any_strength_and_at_0_it_is_the_base(
    tiny_model: Path, adapter: Path, settings: ChatSettings, tools: Any
) -> None:
    base = Local(name="base", model=str(tiny_model))
    with ExitStack() as opened:
        without, side = Side(base, opened), Side(base.model_copy(update={"name": "s", "adapter": adapter}), opened)
        expected = without.reply((), "How?", settings, tools)
        whole = side.reply((), "How?", settings, tools)
        side.turn_to(0.0)
        none = side.reply((), "How?", settings, tools)
        side.turn_to(1.0)
        again = side.reply((), "How?", settings, tools)
        without.turn_to(0.5)
        assert without.model.name == "base"
    assert whole.scores != expected.scores
    assert (none.subject, none.reply, none.scores) == ("s at 0", expected.reply, expected.scores)
    assert (again.subject, again.reply, again.scores) == ("s at 1", whole.reply, whole.scores)


def test_of_a_run_talk_its_base_the_teachers_that_know_more_than_a_recording_and_its_student(
    tiny_model: Path, adapter: Path
) -> None:
    run = adapter.parents[1]
    teachers = (Recorded(name="expert"), Local(name="same", model=str(tiny_model)), CAREFUL)
    config = RunConfig(student=StudentSettings(model=str(tiny_model)), teach=TeachSettings(teachers=teachers))
    save_config(config, run / "recipe.yaml")
    assert [side.name for side in sides_of_run(run)] == ["base", "careful", "student"]
    (run / "recipe.yaml").unlink()
    with pytest.raises(InputError, match="there is no finished run in it; name one, or models with --model"):
        list(sides_of_run(run))


def test_models_are_called_by_where_they_lie_and_the_first_comes_with_the_adapter_too(
    tiny_model: Path, adapter: Path
) -> None:
    sides = list(sides_of_models([str(tiny_model), str(tiny_model)], adapter))
    assert [side.name for side in sides] == ["model", "model", f"{adapter.parents[1].name}/student"]
    assert [getattr(side, "adapter", None) for side in sides] == [None, None, adapter]


def test_a_missing_gradio_is_said_before_a_model_is_loaded(
    settings: ChatSettings, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    nowhere = Local(name="m", model="nowhere")
    with (
        pytest.raises(InputError, match=r"gradio is not installed; run: pip install 'limbeck\[chat\]'"),
        served([nowhere], settings, tools, port=free_port()),
    ):
        pass


def test_a_missing_adapter_is_said_before_a_model_is_loaded(settings: ChatSettings, tools: Any) -> None:
    pytest.importorskip("gradio", reason="needs the extra: pip install 'limbeck[chat]'")
    adapted = Local(name="m", model="nowhere", adapter=Path("nowhere"))
    with (
        pytest.raises(InputError, match="nowhere: there is no such file or folder"),
        served([adapted], settings, tools, port=free_port()),
    ):
        pass


def test_a_port_that_is_taken_is_said_before_a_model_is_loaded(settings: ChatSettings, tools: Any) -> None:
    pytest.importorskip("gradio", reason="needs the extra: pip install 'limbeck[chat]'")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(InputError, match=rf"--port {port}: cannot be used \(Address already in use\); name another"),
            served([Local(name="m", model="nowhere")], settings, tools, port=port),
        ):
            pass
