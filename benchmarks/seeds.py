"""The figures of several runs of one recipe, pooled: python benchmarks/seeds.py runs/seed1 runs/seed2 runs/seed3

Each run has an exam of its own; their trials are measured as one. A prompt may stand in the exam of more than one
run, each time before another student: the intervals take these as independent. What is compared prompt by prompt
(usefulness drop, consistency) is left out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from limbeck.evaluation.refusal import Refusal
from limbeck.evaluation.safety import Safety
from limbeck.evaluation.usefulness import Usefulness
from limbeck.records import Scorecard, Trial
from limbeck.report.headline import HEADLINE, MULTIPLE_CHOICE, REPETITIVE, as_rich, figures

DIMENSIONS = (Safety(), Refusal(), Usefulness())
COLUMNS = (*HEADLINE[: HEADLINE.index(MULTIPLE_CHOICE) + 1], REPETITIVE)


def main(folders: list[str]) -> None:
    """Print one table, a column for each subject."""
    by_subject: dict[str, list[Trial]] = {}
    for folder in folders:
        for trial in trials_of(Path(folder)):
            by_subject.setdefault(trial.subject, []).append(trial)
    scorecards = [
        Scorecard(model=subject, measurements=tuple(one for each in DIMENSIONS for one in each.measure(trials)))
        for subject, trials in by_subject.items()
    ]
    Console().print(as_rich(figures(scorecards, COLUMNS)))


def trials_of(folder: Path) -> Iterator[Trial]:
    """The trials of a finished run's exam."""
    return map(Trial.read, rows_of(folder, "exam"))


def rows_of(folder: Path, stage: str) -> Iterator[str]:
    """The rows that such a stage of a finished run kept."""
    for rows in sorted(kept_by(folder, stage).glob("rows-*.jsonl")):
        with rows.open(encoding="utf-8") as lines:
            yield from lines


def kept_by(folder: Path, stage: str) -> Path:
    """The folder of such a stage of a finished run."""
    stages = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["stages"]
    (kept,) = (folder / place for place, one in stages.items() if one["stage"] == stage)
    return kept


if __name__ == "__main__":
    main(sys.argv[1:])
