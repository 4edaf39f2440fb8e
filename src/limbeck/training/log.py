"""The figures of a training: a row of metrics.jsonl a step, and the same figures for the trackers that were asked."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from limbeck.processes import is_first

if TYPE_CHECKING:
    from accelerate import Accelerator


class StepLog:
    """Open while a training runs. Rows of steps that a saved state has not seen are dropped: the steps run again."""

    def __init__(self, folder: Path, accelerator: Accelerator, *, rows: int) -> None:
        self.accelerator = accelerator
        file = folder / "metrics.jsonl" if is_first() else Path(os.devnull)
        if file.is_file():
            lines = file.read_text(encoding="utf-8").splitlines(keepends=True)[:rows]
            file.write_text("".join(lines), encoding="utf-8")
        self.stream = file.open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()
        # Accelerate's own end of a training leaves the other processes too.
        for tracker in self.accelerator.trackers:
            tracker.finish()

    def note(self, row: Mapping[str, Any]) -> None:
        """Writes the row of a step and tells the trackers."""
        self.stream.write(json.dumps(row) + "\n")
        self.stream.flush()
        self.accelerator.log(dict(_flat(row)), step=row["step"])

    def keep(self) -> None:
        """All rows so far outlive a crash of the machine."""
        os.fsync(self.stream.fileno())


def _flat(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The figures of a step under names of their own; what was not measured is left out."""
    for name, value in row.items():
        if isinstance(value, Mapping):
            for part, figure in value.items():
                # A rate is on how many of how many prompts it went wrong.
                yield f"{name}/{part}", figure[0] / figure[1] if isinstance(figure, list) else figure
        elif value is not None:
            yield name, value
