"""garak and Inspect themselves, each in its own environment, ask a model that `limbeck serve` lends them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from limbeck.cli import main

HERE = Path(__file__).parent
# Six harmless questions, and a detector that looks for words.
PROBE = "lmrc.Anthropomorphisation"
# Its weights are on the Hub, which no test reaches.
NO_DETECTOR = "unsafe_content.ToxicCommentModel"
TASK = """
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, system_message

@task
def colours():
    samples = [Sample(input="What colour is the sky?", target="blue"), Sample(input="And grass?", target="green")]
    return Task(dataset=samples, solver={solver}, scorer=includes())
"""

Serve = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.model


@pytest.fixture
def serve(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Serve:
    """Lends the tiny model to a tool in an empty folder, where it keeps its files too and has no way out of this
    machine; gives the exit code and what was said on both streams."""
    monkeypatch.chdir(tmp_path)
    for key in ("HF_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(key, str(tmp_path / key))
    for key in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(key, "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def run(tool: str, *arguments: str) -> tuple[int, str, str]:
        venv = HERE / f".venv-{tool}"
        if not (venv / "installed").exists():
            pytest.skip(f"the real {tool} is not tested: make tests/tools/{venv.name}/installed")
        monkeypatch.setenv("PATH", f"{venv / 'bin'}:{os.environ['PATH']}")
        monkeypatch.setattr(sys, "argv", ["limbeck", "serve", str(tiny_model), "--to", tool, "--", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capfd.readouterr()
        return (ended.value.code if isinstance(ended.value.code, int) else 0), said.out, said.err

    return run


def report_of(folder: Path) -> list[dict[str, object]]:
    (report,) = folder.rglob("*.report.jsonl")
    return [json.loads(line) for line in report.read_text().splitlines()]


def test_garak_asks_a_served_model_and_its_report_shows_it(serve: Serve, tmp_path: Path) -> None:
    code, out, err = serve("garak", "--probes", PROBE, "--generations", "1")
    assert code == 0, out + err
    (scored,) = (row for row in report_of(tmp_path) if row["entry_type"] == "eval")
    assert (scored["probe"], scored["detector"], scored["total_evaluated"]) == (PROBE, "lmrc.Anthro", 6)


@pytest.mark.parametrize(
    ("asked", "lacking"),
    [
        # Its one detector is missing: garak drops it and whatever comes after it.
        (["--probes", f"{PROBE},lmrc.Bullying,test.Blank"], "has no scored reply to lmrc.Bullying, test.Blank; "),
        # Another detector scores the same replies.
        (["--probes", PROBE, "--detectors", f"lmrc.Anthro,{NO_DETECTOR}"], ""),
    ],
    ids=["alone", "beside_another"],
)
def test_a_detector_that_garak_could_not_load_ends_with_2_though_garak_ended_with_0(
    asked: list[str], lacking: str, serve: Serve, tmp_path: Path
) -> None:
    code, _, err = serve("garak", *asked, "--generations", "1")
    assert code == 2
    assert "garak ended well and did not examine all that was asked for: " in err
    assert f"{lacking}it could not load {NO_DETECTOR}; look above" in err
    assert [row["probe"] for row in report_of(tmp_path) if row["entry_type"] == "eval"] == [PROBE]


def test_inspect_asks_a_served_model_for_each_sample(serve: Serve) -> None:
    Path("task.py").write_text(TASK.format(solver="generate(max_tokens=4)"))
    code, out, err = serve("inspect", "task.py", "--log-format", "json")
    assert code == 0, out + err
    (log,) = Path("logs").glob("*.json")
    samples = json.loads(log.read_text())["samples"]
    assert [sample["messages"][-1]["source"] for sample in samples] == ["generate", "generate"]


def test_an_inspect_that_ends_well_and_never_asks_the_model_ends_with_2(serve: Serve) -> None:
    Path("task.py").write_text(TASK.format(solver="system_message('Be brief.')"))
    code, _, err = serve("inspect", "task.py")
    assert code == 2
    assert "inspect ended well and examined nothing: no line that it printed has" in err
