"""A run that is killed again and again ends as one that was left alone."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.model
def test_a_run_killed_five_times_in_teach_and_in_train_ends_like_one_left_alone(
    tmp_path: Path, tiny_model: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(model=tiny_model))
    left_alone, killed = tmp_path / "left_alone", tmp_path / "killed"
    assert _start(recipe, left_alone).wait() == 0
    dice = random.Random(5)
    replies = len((left_alone / "kept" / "candidates.jsonl").read_text().splitlines())
    steps = len(_losses(left_alone))
    for _ in range(5):
        _kill_once(recipe, killed, "kept/candidates.jsonl", after=dice.randrange(1, replies))
    for _ in range(5):
        _kill_once(recipe, killed, "**/metrics.jsonl", after=dice.randrange(1, steps))
    assert _start(recipe, killed).wait() == 0
    assert _lessons(killed) == _lessons(left_alone)
    assert _losses(killed) == pytest.approx(_losses(left_alone), rel=1e-6, abs=1e-6)


def _start(recipe: Path, folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "limbeck.cli", "run", str(recipe), "--folder", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _kill_once(recipe: Path, folder: Path, pattern: str, *, after: int) -> None:
    """Start the run and kill it (SIGKILL) once the file has so many lines more than `after`, or is done with it."""
    process = _start(recipe, folder)
    while process.poll() is None:
        lines = sum(len(file.read_bytes().splitlines()) for file in folder.glob(pattern))
        if lines >= after:
            break
        try:
            process.wait(timeout=0.02)
        except subprocess.TimeoutExpired:
            continue
    process.kill()
    process.wait()


def _lessons(folder: Path) -> list[str]:
    return [file.read_text() for file in sorted(folder.glob("round-0/lessons-*/rows-*.jsonl"))]


def _losses(folder: Path) -> list[float]:
    (log,) = folder.glob("round-0/checkpoint-*/metrics/metrics.jsonl")
    return [value for line in log.read_text().splitlines() for value in json.loads(line)["losses"].values()]
