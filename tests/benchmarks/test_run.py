"""How a run comes by its rows, and how it goes on."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/run.py."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("run")


def test_what_is_kept_is_the_median_of_the_repeats_that_gave_a_figure(run: ModuleType) -> None:
    answers = [{"seconds": 3.0, "extra_mb": 10.0}, {"failed": "killed"}, {"seconds": 1.0}, {"seconds": 2.0}]
    (row,) = run.medians([run.Measured("head", "trl", "rows=256", *each) for each in enumerate(answers)])
    assert (row.seconds, row.extra_mb, row.peak_mb) == (2.0, 10.0, None)


def test_the_head_is_measured_at_every_size_with_either_head_and_teacher_in_both_types(run: ModuleType) -> None:
    ours = [job.setting for job in run.head_jobs(run.FULL, {}) if job.contender == "ours"]
    # 3 sizes, 3 betas, frozen and trainable, live and cached, float32 and bfloat16.
    assert len(ours) == len(set(ours)) == 3 * 3 * 2 * 2 * 2


def test_a_run_goes_on_with_what_is_missing_or_failed(run: ModuleType, tmp_path: Path) -> None:
    ledger = tmp_path / "measured.jsonl"
    jobs = [run.Job("head", "trl", "rows=256", 2), run.Job("head", "liger", "rows=256", 1)]
    ledger.write_text(
        '["head", "trl", "rows=256", 0, {"seconds": 1.0}]\n["head", "liger", "rows=256", 0, {"failed": "killed"}]\n'
    )
    asked = []

    class Scripted:
        def do(self, job: object) -> dict[str, float]:
            asked.append(job)
            return {"seconds": 2.0}

    run.measure(jobs, Scripted(), ledger, Console(quiet=True))
    assert asked == [jobs[1], jobs[0]]
    assert [row.seconds for row in run.medians(list(run.read(ledger)))] == [1.5, 2.0]
