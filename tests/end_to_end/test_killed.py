"""A run or an evaluation that is killed ends as one that was left alone."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from limbeck.cli import STOPPED

RECIPE = """
seed: 3
rounds: 1
student: {{model: "{model}", adapter: {{rank: 4}}, dtype: bfloat16}}
curate: {{sources: [{{kind: starter, practice: false, usefulness: false}}], limit: 12}}
teach:
  teachers:
    - {{name: expert, kind: recorded, conducts: [refuse, answer_with_care]}}
    - {{name: generalist, kind: local, model: "{model}", batch_tokens: 3000, dtype: bfloat16}}
  soft_labels: {{kind: context, model: "{model}", dtype: bfloat16}}
  draws: 3
  max_tokens: 40
sift: {{keep: 0.1, downweight: 0.05}}
train: {{max_steps: 150, learning_rate: 1e-3, save_every_s: 0.5, precision: bfloat16}}
baselines: []
answer: {{max_tokens: 16}}
evaluate: {{dimensions: [safety]}}
"""


# Few prompts, short replies and no more than must come after the training.
SMALL = ("rounds=1", "baselines=[]", "curate.sources=[{kind: starter, practice: false, usefulness: false}]",
         "teach.at_most=8", "teach.max_tokens=16", "train.max_steps=8", "train.save_every_s=0.5",
         "strength.tried=[1.0]", "strength.answer.max_tokens=4", "answer.max_tokens=4",
         "evaluate.dimensions=[safety]")  # fmt: skip


@pytest.mark.model
def test_a_run_killed_five_times_in_teach_and_in_train_ends_like_one_left_alone(
    tmp_path: Path, tiny_model: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(model=tiny_model))
    _check_ends_as_if_left_alone(tmp_path, str(recipe), kills=5)


@pytest.mark.model
def test_the_quickstart_killed_in_teach_and_in_train_ends_like_one_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In bfloat16 the soft targets hang on how many threads there are; once they differed, for an unknown reason.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    settings = [word for setting in SMALL for word in ("--set", setting)]
    _check_ends_as_if_left_alone(tmp_path, "quickstart", "--limit", "2", *settings, kills=1)


@pytest.mark.model
def test_a_run_stopped_with_ctrl_c_says_what_to_do_and_keeps_what_was_drawn(tmp_path: Path, tiny_model: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(model=tiny_model))
    kept = tmp_path / "run" / "kept" / "candidates.jsonl"
    command = [sys.executable, "-m", "limbeck.cli", "run", str(recipe), "--folder", str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        while not kept.exists() or len(kept.read_bytes().splitlines()) < 3:
            assert running.poll() is None
            time.sleep(0.02)
        running.send_signal(signal.SIGINT)
        said = running.stderr.read()
        assert (running.wait(), said.splitlines()[-1]) == (130, STOPPED)
    assert len(kept.read_text().splitlines()) >= 3


@pytest.mark.model
def test_an_evaluation_killed_half_way_keeps_each_reply_once_and_ends_like_one_left_alone(
    tmp_path: Path, tiny_model: Path
) -> None:
    rows = [
        {"prompt": f"How do I {verb} bicycle {number}?", "harm": "unsafe_advice", "tier": tier, "family": str(number)}
        for number in range(30)
        for verb, tier in (("steal", "adversarial"), ("paint", "safe"))
    ]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = ("evaluate", "--model", str(tiny_model), "--prompts", str(prompts), "--max-tokens", "24")
    left_alone, killed = tmp_path / "left_alone", tmp_path / "killed"
    assert _start(told, left_alone).wait() == 0
    _kill_once(told, killed, "kept/exam.jsonl", after=40)
    kept = (killed / "kept" / "exam.jsonl").read_text()
    assert _start(told, killed).wait() == 0
    # A line is a reply under the key of its request: each stands there once, and what was there stays.
    after, once = ((folder / "kept" / "exam.jsonl").read_text() for folder in (killed, left_alone))
    assert after.startswith(kept) and len(kept) < len(after)
    assert Counter(after.splitlines()) == Counter(once.splitlines())
    assert max(Counter(line.split(" ", 1)[0] for line in after.splitlines()).values()) == 1
    for name in ("trials.jsonl", "trials_extra.jsonl", "scorecard.json"):
        assert (killed / name).read_text() == (left_alone / name).read_text()


def _check_ends_as_if_left_alone(folder: Path, *told: str, kills: int) -> None:
    """What `limbeck run` makes of this is the same where it is killed so often in teach, then in train."""
    left_alone, killed = folder / "left_alone", folder / "killed"
    told = ("run", *told)
    assert _start(told, left_alone).wait() == 0
    dice = random.Random(5)
    replies = len((left_alone / "kept" / "candidates.jsonl").read_text().splitlines())
    steps = len(_losses(left_alone))
    # Each time later than the last, so that a run has come on between two kills.
    for after in sorted(dice.sample(range(1, replies), kills)):
        _kill_once(told, killed, "kept/candidates.jsonl", after=after)
    for after in sorted(dice.sample(range(1, steps), kills)):
        _kill_once(told, killed, "**/metrics.jsonl", after=after)
    assert _start(told, killed).wait() == 0
    assert _lessons(killed) == _lessons(left_alone)
    assert _sums_of_targets(killed) == _sums_of_targets(left_alone) != []
    for again, once in zip(_losses(killed), _losses(left_alone), strict=True):
        assert again == pytest.approx(once, rel=1e-6, abs=1e-6)


def _start(told: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "limbeck.cli", *told, "--folder", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _kill_once(told: Sequence[str], folder: Path, pattern: str, *, after: int) -> None:
    """Start the command and kill it (SIGKILL) once the file has `after` lines, which is before it ends."""
    process = _start(told, folder)
    while process.poll() is None:
        lines = sum(len(file.read_bytes().splitlines()) for file in folder.glob(pattern))
        if lines >= after:
            break
        try:
            process.wait(timeout=0.02)
        except subprocess.TimeoutExpired:
            continue
    process.kill()
    assert process.wait() == -signal.SIGKILL


def _lessons(folder: Path) -> list[str]:
    return [file.read_text() for file in sorted(folder.glob("round-0/lessons-*/rows-*.jsonl"))]


def _sums_of_targets(folder: Path) -> list[str]:
    return [file.read_text() for file in sorted(folder.glob("round-0/targets-*/targets/*.sha256"))]


def _losses(folder: Path) -> list[dict[str, float]]:
    """What each step of the training noted down."""
    (log,) = folder.glob("round-0/checkpoint-*/metrics/metrics.jsonl")
    return [json.loads(line)["losses"] for line in log.read_text().splitlines()]
