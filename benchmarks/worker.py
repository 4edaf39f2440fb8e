"""Does one contender's jobs, each in a process forked for it: python benchmarks/worker.py CONTENDER

Reads a job a line ({"work", "setting", "limit_s"}), writes its figures a line, or {"failed": why}. The libraries are
imported once, before the fork and before any thread, so that a fresh process costs milliseconds.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import re
import signal
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

from table import parsed
from work import Setting, batches, other_texts, questions, relative_error, scoring_error

Figures = dict[str, float | None]
# Short calls are repeated for a second within a job.
AT_LEAST_S, MOST_CALLS = 1.0, 20


class Meter:
    """Times of the laps since `start`, and what the process' resident memory rose by since then, MB (10^6 bytes)."""

    def __init__(self) -> None:
        self.laps: list[float] = []
        self.peak_before = self.before = 0.0

    def start(self) -> None:
        """Everything is loaded and warm: the clock runs from here."""
        self.peak_before = _resident()["VmHWM"]
        # Linux: makes the present size the peak (man 5 proc).
        Path("/proc/self/clear_refs").write_text("5")
        self.before = _resident()["VmRSS"]
        self.last = time.perf_counter()

    def lap(self) -> None:
        """One more piece of work is done."""
        now = time.perf_counter()
        self.laps.append(now - self.last)
        self.last = now

    def memory(self) -> Figures:
        """`extra_mb` above what was resident at the start, `peak_mb` of the process from its beginning."""
        peak = _resident()["VmHWM"]
        return {"extra_mb": peak - self.before, "peak_mb": max(peak, self.peak_before)}


def _resident() -> dict[str, float]:
    status = Path("/proc/self/status").read_text()
    return {name: int(kib) * 1024 / 1e6 for name, kib in re.findall(r"(VmHWM|VmRSS):\s+(\d+)", status)}


def _timed(call: Callable[[], Any]) -> tuple[Meter, Any]:
    """The call again and again for about a second, and what it gave last."""
    meter = Meter()
    meter.start()
    while sum(meter.laps) < AT_LEAST_S and len(meter.laps) < MOST_CALLS:
        answer = None  # else it would count as the next call's memory
        answer = call()
        meter.lap()
    return meter, answer


def head(contender: ModuleType, setting: Setting) -> Figures:
    """Loss and gradients of the head once."""
    contender.head({**setting, "rows": "8"})()
    meter, answer = _timed(contender.head(setting))
    seconds = statistics.median(meter.laps)
    memory = meter.memory()
    speed = int(setting["rows"]) / seconds
    error = relative_error(answer, setting)
    return {"seconds": seconds, "supervised_tokens_per_s": speed, **memory, "relative_error": error}


def matmul(contender: ModuleType, setting: Setting) -> Figures:
    """One matrix product; the machine's peak is the best of some shapes."""
    call = contender.matmul(setting)
    call()
    meter, _ = _timed(call)
    return {"seconds": statistics.median(meter.laps)}


def step(contender: ModuleType, setting: Setting) -> Figures:
    """Optimizer steps over the same chats; the contender starts the meter after a short first one."""
    given, meter = batches(setting), Meter()
    contender.step(setting, given, meter)
    return _per_step(meter, sum(row.reply_tokens for rows in given[1:] for row in rows))


def growth(contender: ModuleType, setting: Setting) -> Figures:
    """Optimizer steps over lessons on disk; the contender starts the meter after the first one."""
    meter = Meter()
    return _per_step(meter, contender.growth(setting, meter))


def _per_step(meter: Meter, tokens: int) -> Figures:
    seconds = sum(meter.laps)
    return {"seconds": seconds / len(meter.laps), "supervised_tokens_per_s": tokens / seconds, **meter.memory()}


def scoring(contender: ModuleType, setting: Setting) -> Figures:
    """Log-likelihoods of choices behind questions; tokens are those of the choices."""
    rows, meter = questions(setting), Meter()
    totals = contender.scoring(setting, rows, meter)
    return {**_per_step(meter, int(setting["tokens"])), "relative_error": scoring_error(totals, setting)}


def generation(contender: ModuleType, setting: Setting) -> Figures:
    """Greedy replies to questions of many lengths; tokens are those that the longest replies would have."""
    rows, meter = questions(setting), Meter()
    texts = contender.generation(setting, rows, meter)
    figures = _per_step(meter, len(rows) * int(setting["reply"]))
    return {**figures, "relative_error": other_texts(texts, setting)}


WORKS = {work.__name__: work for work in (matmul, head, step, growth, scoring, generation)}


def main(name: str) -> None:
    """Answer jobs until there are no more."""
    contender = importlib.import_module(f"contenders.{name}")
    # An exit, unlike the signal itself, takes the job's process along.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    # What libraries print goes to stderr, so that only answers come back.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        answers.write(json.dumps(_in_fresh_process(contender, json.loads(line))) + "\n")
        answers.flush()


def _in_fresh_process(contender: ModuleType, job: dict[str, Any]) -> dict[str, Any]:
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    child = fork.Process(target=_do, args=(sender, contender, job))
    child.start()
    sender.close()
    try:
        if receiver.poll(job["limit_s"]):
            return receiver.recv()
        return {"failed": f"not done after {job['limit_s']} s"}
    except EOFError:
        return {"failed": "the process was killed; there may be too little memory"}
    finally:
        child.kill()
        child.join()


def _do(sender: Connection, contender: ModuleType, job: dict[str, Any]) -> None:
    try:
        sender.send(WORKS[job["work"]](contender, parsed(job["setting"])))
    except Exception as error:
        traceback.print_exc()
        sender.send({"failed": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main(sys.argv[1])
