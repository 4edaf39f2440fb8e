"""The soft-target cache, on a real model's distributions: python benchmarks/cache.py

SmolLM2 scores replies of the starter set. What is kept of them is written once for the size on disk, and over and over,
in lessons drawn by chance, for the memory and the time that more and more positions take. Each figure of memory is of a
process of its own.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich.console import Console
from rich.table import Table

from limbeck.curate.sources import Starter
from limbeck.models.local import Local
from limbeck.protocols import Continuation, Drawn, Target, TopK
from limbeck.targets.cache import PART_LESSONS, Targets, write_part
from limbeck.teach.keep import Keep, Sampled, Top

MODEL = "smollm2-135m-instruct"
KEEPS: dict[str, Keep] = {"top, 32 ids": Top(), "sampled, 50 draws": Sampled()}
SCORED_REPLIES = 80
POSITIONS = (10_000, 100_000, 1_000_000)
# Of an id in int32 and its log-prob in float32.
RAW_BYTES = 8
READS = 500


def main() -> None:
    """Score, then measure each way to keep."""
    console = Console()
    with TemporaryDirectory(prefix="limbeck-cache-") as hidden:
        folder = Path(hidden)
        for name, lessons in scored().items():
            torch.save(lessons, folder / f"{name}.pt")
            console.print(on_disk(name, lessons, folder / name))
            console.print(growth(name, folder))


def scored() -> dict[str, list[Target]]:
    """What each way keeps of the same replies, a target for each."""
    prompts = islice((one for one in Starter(practice=False).prompts() if one.reference), SCORED_REPLIES)
    told = [Continuation(one.id, one.messages, one.reference or "", ends=True) for one in prompts]
    with Local(name="teacher", model=MODEL).open() as model:
        return {name: [target for _, target in keep.labels(model, told)] for name, keep in KEEPS.items()}


def on_disk(name: str, lessons: list[Target], folder: Path) -> str:
    """How much the files take of the raw bytes of the ids that are kept."""
    folder.mkdir()
    named = [(f"lesson {number}", target) for number, target in enumerate(lessons)]
    for number in range(0, len(named), PART_LESSONS):
        write_part(folder / f"targets-0-{number:05d}.parquet", named[number : number + PART_LESSONS])
    size = sum(file.stat().st_size for file in folder.iterdir())
    positions, ids = sum(map(positions_of, lessons)), sum(map(ids_of, lessons))
    return (
        f"{name}: {positions:,} positions, {ids / positions:.1f} ids each, {size / positions:.1f} bytes a position, "
        f"{size / (RAW_BYTES * ids):.2f} of raw"
    )


def positions_of(target: Target) -> int:
    """Of one reply."""
    return len(target.sizes_N if isinstance(target, Drawn) else target.tail_N)


def ids_of(target: Target) -> int:
    """That are kept of one reply."""
    return len(target.ids_S) if isinstance(target, Drawn) else target.ids_NK.numel()


def growth(name: str, folder: Path) -> Table:
    """Memory and time by the number of positions."""
    table = Table(title=name)
    for column in ("positions", "files", "positions/s written", "MB writing", "MB reading", "row ms", "95 %", "CPU ms"):
        table.add_column(column, justify="right")
    for positions in POSITIONS:
        made = folder / f"{name}-{positions}"
        made.mkdir()
        write, read = (alone(verb, folder / f"{name}.pt", made, positions) for verb in ("write", "read"))
        table.add_row(
            f"{positions:,}",
            f"{write['files']:.0f}",
            f"{positions / write['seconds']:,.0f}",
            f"{write['peak_mb']:.0f}",
            f"{read['peak_mb']:.0f}",
            f"{read['median_ms']:.2f}",
            f"{read['late_ms']:.2f}",
            f"{read['cpu_ms']:.2f}",
        )
    return table


def alone(verb: str, lessons: Path, folder: Path, positions: int) -> dict[str, float]:
    """The figures of one process."""
    command = [sys.executable, __file__, verb, str(lessons), str(folder), str(positions)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def write(lessons: list[Target], folder: Path, positions: int) -> dict[str, float]:
    """Files of lessons drawn by chance, in parts as a run writes them."""
    started = time.perf_counter()
    drawn = several(lessons, positions)
    files = 0
    while part := list(islice(drawn, PART_LESSONS)):
        write_part(folder / f"targets-0-{files:06d}.parquet", part)
        files += 1
    return {"seconds": time.perf_counter() - started, "files": files}


def several(lessons: list[Target], positions: int) -> Iterator[tuple[str, Target]]:
    """Lessons by chance until they have so many positions."""
    chance = random.Random(0)
    number = 0
    while positions > 0:
        one = chance.choice(lessons)
        yield f"{number:016x}", one
        positions -= positions_of(one)
        number += 1


def read(folder: Path) -> dict[str, float]:
    """Rows by chance, each read from its file: milliseconds by the clock, and of the processor in the mean."""
    targets = Targets([folder])
    chance = random.Random(1)
    names = list(targets)
    times_ms = []
    busy = time.process_time()
    for _ in range(READS):
        name = chance.choice(names)
        started = time.perf_counter()
        assert isinstance(targets[name], TopK)
        times_ms.append(1000 * (time.perf_counter() - started))
    cpu_ms = 1000 * (time.process_time() - busy) / READS
    late_ms = statistics.quantiles(times_ms, n=20)[-1]
    return {"median_ms": statistics.median(times_ms), "late_ms": late_ms, "cpu_ms": cpu_ms}


def peak_mb() -> float:
    """Most memory that this process had resident; getrusage would count what its parent had before it."""
    (found,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found) / 1000


def child(arguments: list[str]) -> None:
    """One process of `alone`: prints its figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=("write", "read"))
    parser.add_argument("lessons", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("positions", type=int)
    given = parser.parse_args(arguments)
    if given.verb == "write":
        figures = write(torch.load(given.lessons, weights_only=False), given.folder, given.positions)
    else:
        figures = read(given.folder)
    print(json.dumps({**figures, "peak_mb": peak_mb()}))


if __name__ == "__main__":
    child(sys.argv[1:]) if len(sys.argv) > 1 else main()
