"""Several processes train as one, and never each for itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from limbeck.config import load_config
from limbeck.errors import InputError
from limbeck.processes import check_together
from limbeck.verbs import train
from limbeck.workspace import Silent

TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "limbeck.cli")
ONE = ("-m", "limbeck.cli")
PROMPT = {"harm": "toxicity", "tier": "adversarial"}


def in_processes(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (sys.executable, *command), cwd=cwd, env=os.environ | environment, capture_output=True, text=True, timeout=600
    )


@pytest.fixture
def recipe(tmp_path: Path, tiny_model: Path) -> tuple[str, ...]:
    """What to type after `limbeck` to train the tiny model: 5 steps of 3 lessons, the last step of an epoch with 1."""
    rows: list[dict[str, Any]] = [
        {"prompt": f"How do I do thing {number}?", "completion": f"Take step {number % 3}.", "harm": None}
        for number in range(4)
    ] + [
        {"prompt": f"How do I mock {name}?", "chosen": "No.", "rejected": "Sure.", **PROMPT} for name in ("A", "B", "C")
    ]
    (tmp_path / "lessons.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "own.yaml").write_text(
        f"student: {{model: {tiny_model}, adapter: {{rank: 4}}}}\n"
        "train: {losses: [cross_entropy, decision, unlikelihood, drift, preference, {kind: contrastive, layers: [1]},\n"
        "        {kind: prompt_contrast, layers: [1]}, {kind: noise_consistency, noise: {on: text}}],\n"
        "        max_steps: 5, batch_lessons: 3,\n"
        "        learning_rate: 0.01, save_every_s: 1.0e-9}\n"
    )
    return ("train", "--recipe", "own.yaml", "--lessons", "lessons.jsonl", "--folder")


def metrics(folder: Path) -> list[dict[str, Any]]:
    (file,) = folder.glob("checkpoint-*/metrics/metrics.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


class Killed(Silent):
    """Progress that dies in the third step."""

    def track(self, label: str, items: Iterable[Any], *, total: int) -> Iterator[Any]:
        for item in items:
            if label.startswith("training") and item == 2:
                raise KeyboardInterrupt
            yield item


@pytest.mark.model
def test_two_processes_have_the_losses_of_one_and_go_on_where_one_was_killed(
    tmp_path: Path, recipe: tuple[str, ...]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(load_config(tmp_path / "own.yaml"), tmp_path / "lessons.jsonl", tmp_path / "killed", progress=Killed())
    alone = in_processes(*ONE, *recipe, "alone", cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    assert len(metrics(tmp_path / "killed")) == 2
    for folder, left in (("both", 5), ("killed", 4)):
        together = in_processes(*TWO, *recipe, folder, cwd=tmp_path)
        assert together.returncode == 0, together.stderr
        assert together.stdout.splitlines() == [
            f"training student, round 0, steps: {left}",
            f"student: {folder}/student/merged",
        ]
        for one, other in zip(metrics(tmp_path / "alone"), metrics(tmp_path / folder), strict=True):
            for of in ("losses", "units"):
                assert other[of] == pytest.approx(one[of], abs=1e-5)
            assert other["supervised_tokens"] == one["supervised_tokens"]


@pytest.mark.model
def test_two_processes_measure_the_student_as_one_does(tmp_path: Path, recipe: tuple[str, ...]) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": f"How do I {verb} {name}?", "family": name, **PROMPT, "tier": tier}
        for verb, tier in (("tease", "adversarial"), ("cheer", "safe"))
        for name in ("D", "E", "F")
    ]
    (tmp_path / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = (tmp_path / "own.yaml").read_text() + "strength: {tried: [1.0], answer: {max_tokens: 1}}\n"
    measures = "balance: {kind: constrained, robustness: 0.1}, probe: {every_steps: 2, max_tokens: 8}, max_steps: 3"
    (tmp_path / "own.yaml").write_text(own.replace("max_steps: 5", measures))
    logs = []
    for folder, how in (("one", ONE), ("two", TWO)):
        ended = in_processes(*how, *recipe, folder, "--validation", "validation.jsonl", cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
        logs.append(metrics(tmp_path / folder))
    sizes = {name: n for name, (_, n) in logs[1][0]["rates"].items()}
    assert sizes == {"toxicity": 3, "over_refusal": 3, "robustness": 6}
    for one, other in zip(*logs, strict=True):
        assert other.get("rates") == one.get("rates") and other["multipliers"] == one["multipliers"]


def test_processes_that_do_not_find_one_another_do_not_train(tmp_path: Path, recipe: tuple[str, ...]) -> None:
    # A program that has used accelerate before, on a machine without a GPU.
    (tmp_path / "program.py").write_text(
        "from accelerate import PartialState; PartialState(); from limbeck.cli import main; main()"
    )
    lone = in_processes(*TWO[:-2], "program.py", *recipe, "lone", cwd=tmp_path, CUDA_VISIBLE_DEVICES="")
    assert lone.returncode == 1
    assert "2 processes were started and 1 train together" in lone.stderr
    assert not (tmp_path / "lone").exists()


LEADS = """
from pathlib import Path
from limbeck.processes import leading
with leading():
    pass
print(*(name.read_text().strip() for name in Path("/proc/self/task").glob("*/comm")), flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="names of threads are read from /proc")
def test_no_thread_of_the_group_outlives_it_to_abort_the_process_at_its_end(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(LEADS)
    ended = in_processes(*TWO[:-2], "program.py", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "python" in ended.stdout and "gloo" not in ended.stdout


PROGRAM = """
import json, os, sys
import torch
from accelerate import Accelerator
from torch.distributed.fsdp import fully_shard
from limbeck.losses.cross_entropy import CrossEntropy
from limbeck.losses.drift import Drift
from limbeck.records import Lesson, Prompt, asked
from limbeck.training.batches import LessonEncoder
from limbeck.training.objective import Objective
from limbeck.training.step import run_step
from limbeck.training.student import Student, StudentSettings

accelerator = Accelerator(cpu=True)
learner = Student(StudentSettings(model=sys.argv[1]), start_from=None, precision="float32", seed=1)
if accelerator.num_processes > 1:
    for layer in learner.model.get_base_model().get_decoder().layers:
        fully_shard(layer)
parameters, losses = learner.trainable(), [CrossEntropy(), Drift()]
optimizer = torch.optim.AdamW(parameters, lr=1e-2)
objective = Objective(learner.model, losses)
encoder = LessonEncoder(learner.tokenizer, {}, losses=losses, context=learner.context)
lessons = [Lesson(prompt=Prompt(messages=asked(f"Why {n}?")), reply="So. " * n) for n in range(1, 5)]
for _ in range(4):
    examples = [encoder.example(one) for one in lessons][accelerator.process_index :: accelerator.num_processes]
    batches = list(encoder.micro_batches(examples, budget=10_000))
    figures = run_step(objective, losses, batches, parameters, accelerator, clip=1.0)
    optimizer.step()
    optimizer.zero_grad()
    if accelerator.is_main_process:
        print(json.dumps({**figures.losses, "norm": figures.gradient_norm}))
accelerator.end_training()
"""


@pytest.mark.model
def test_sharded_parameters_have_the_losses_of_whole_ones(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    alone = in_processes("program.py", str(tiny_model), cwd=tmp_path)
    sharded = in_processes(*TWO[:-2], "program.py", str(tiny_model), cwd=tmp_path)
    assert (alone.returncode, sharded.returncode) == (0, 0), alone.stderr + sharded.stderr
    steps = [[json.loads(line) for line in one.stdout.splitlines()] for one in (alone, sharded)]
    assert len(steps[0]) == 4 and steps[0][3]["drift"] > 1e-3
    for one, other in zip(*steps, strict=True):
        assert other == pytest.approx(one, abs=1e-5)


def test_one_process_needs_no_others() -> None:
    check_together(1)
    with pytest.raises(InputError, match="1 processes were started and 2 train together"):
        check_together(2)
