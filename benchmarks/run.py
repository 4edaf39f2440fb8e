"""Ours beside others on the same work: python benchmarks/run.py (make bench installs TRL, Liger and lm_eval)

Every job has a process of its own on all cores, contenders take turns, and what is kept is the median of the repeats. A
run that was stopped goes on where it was. `--only head` does one work, `--fresh` forgets what was measured of it,
`--quick` is a trial of everything at the smallest sizes that writes no results, `--table` only writes the page.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

import table
from limbeck.files import write_atomically

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
PAGE = HERE.parent / "docs" / "benchmarks.md"
LOG = HERE / ".work" / "log.txt"
# The venv that each contender runs in; ours runs in the project's own.
VENVS = {"plain": ".venv-plain", "trl": ".venv-trl", "liger": ".venv-liger", "lm_eval": ".venv-lm_eval"}
WORKS = ("matmul", "head", "step", "growth", "scoring", "generation")
LIMIT_S = 300
BETAS = ("0", "0.5", "1")
# Rows (and for TRL columns) that a chunk may have; the first is the peer's default.
CHUNKS = {
    "trl": ("4096x32768", "1024x8192", "256x49152", "64x49152", "16x49152"),
    "liger": ("1024", "256", "64", "16"),
}


class Scale(NamedTuple):
    """How much of each work there is: sizes of the head with their repeats, where chunk sizes are tried, chats of a
    training step, timed steps and repeats, steps and files of growth, and questions scored and answered with the batch
    sizes that peers are tried with; and where answers are kept."""

    ledger: str
    threads: int
    rows: tuple[tuple[int, int], ...]
    tried_at_rows: int
    batch: int
    steps: int
    step_repeats: int
    growth_steps: int
    most_lessons: int
    scored: int
    answered: int
    peer_batches: tuple[int, ...]

    @property
    def tried_at(self) -> str:
        """The setting at which each peer's chunk sizes are tried; the fastest there is used everywhere."""
        return f"rows={self.tried_at_rows} beta=0.5 head=frozen teacher=live dtype=float32"


FULL = Scale(
    ledger=".measured.jsonl",
    threads=len(os.sched_getaffinity(0)),
    rows=((256, 3), (1_024, 2), (4_096, 2)),
    tried_at_rows=1_024,
    batch=8,
    steps=2,
    step_repeats=2,
    growth_steps=40,
    most_lessons=1_000_000,
    scored=250,
    answered=128,
    peer_batches=(8, 32, 128),
)
# One thread: a trial leaves the machine to others.
QUICK = Scale(
    ledger=".quick.jsonl",
    threads=1,
    rows=((256, 1),),
    tried_at_rows=256,
    batch=2,
    steps=1,
    step_repeats=1,
    growth_steps=2,
    most_lessons=100,
    scored=16,
    answered=2,
    peer_batches=(2,),
)


class Job(NamedTuple):
    """A work for a contender, done once for each of its repeats."""

    work: str
    contender: str
    setting: str
    repeats: int


class Measured(NamedTuple):
    """One answer: the job, which repeat, and the figures, or why there are none."""

    work: str
    contender: str
    setting: str
    repeat: int
    figures: dict[str, Any]


class Workers:
    """One waiting process for each contender, which forks for each job."""

    def __init__(self, log: Path, *, threads: int) -> None:
        self.log = log
        self.threads = threads
        self.running: dict[str, subprocess.Popen[str]] = {}
        self.stack = ExitStack()

    def __enter__(self) -> Workers:
        self.errors = self.stack.enter_context(self.log.open("a"))
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self.running.values():
            worker.terminate()
            worker.wait()
        self.stack.close()

    def do(self, job: Job) -> dict[str, Any]:
        """The figures of a job, or why there are none."""
        if job.contender not in self.running:
            self.running[job.contender] = self._start(job.contender)
        worker = self.running[job.contender]
        assert worker.stdin is not None and worker.stdout is not None
        asked = {"work": job.work, "setting": job.setting, "limit_s": LIMIT_S}
        worker.stdin.write(json.dumps(asked) + "\n")
        worker.stdin.flush()
        answer = worker.stdout.readline()
        if not answer:
            raise SystemExit(f"the process of '{job.contender}' ended; see {self.log}")
        return json.loads(answer)

    def _start(self, contender: str) -> subprocess.Popen[str]:
        python = HERE / VENVS[contender] / "bin" / "python" if contender in VENVS else Path(sys.executable)
        if not python.exists():
            raise SystemExit(f"{python} is missing; run: make bench")
        set_here = {"OMP_NUM_THREADS": str(self.threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        return subprocess.Popen(
            [python, HERE / "worker.py", contender],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={**os.environ, **set_here},
        )


def matmul_jobs() -> list[Job]:
    """The machine's peak, by PyTorch's product and by ours: a square one and the head's own."""
    shapes = ("M=2048 K=2048 N=2048", "M=1024 K=576 N=49152")
    return [
        Job("matmul", contender, f"dtype={dtype} {shape}", 3)
        for dtype in table.DTYPES
        for shape in shapes
        for contender in table.PRODUCTS
    ]


def chunk_jobs(scale: Scale) -> list[Job]:
    """Each peer at each of its chunk sizes."""
    return [Job("head", peer, f"{scale.tried_at} chunk={chunk}", 1) for peer in CHUNKS for chunk in CHUNKS[peer]]


def head_jobs(scale: Scale, chunks: dict[str, str]) -> list[Job]:
    """The head at every size: peers as fast as they were with any chunk, ours live and cached, in both types."""
    jobs = []
    for rows, repeats in scale.rows:
        for beta in BETAS:
            for head in ("frozen", "trainable"):
                at = f"rows={rows} beta={beta} head={head}"
                live = f"{at} teacher=live dtype=float32"
                jobs.append(Job("head", "plain", live, repeats))
                jobs += [Job("head", peer, f"{live} chunk={chunk}", repeats) for peer, chunk in chunks.items()]
                jobs += [
                    Job("head", "ours", f"{at} teacher={teacher} dtype={dtype}", repeats)
                    for dtype in table.DTYPES
                    for teacher in ("live", "cached")
                ]
    return jobs


def step_jobs(scale: Scale) -> list[Job]:
    """The training step with LoRA in float32 and in bfloat16; the setting says how many tokens the timed steps have."""
    from work import batches

    given = f"batch={scale.batch} steps={scale.steps}"
    timed = [row for rows in batches(table.parsed(given))[1:] for row in rows]
    supervised = sum(row.reply_tokens for row in timed)
    tokens = supervised + sum(row.prompt_tokens for row in timed)
    told = f"{given} tokens={tokens} supervised={supervised} beta=0.5"
    contenders = (("trl", "live"), ("plain", "none"), ("ours", "live"), ("ours", "cached"))
    return [
        Job("step", contender, f"{told} teacher={teacher} dtype={dtype}", scale.step_repeats)
        for dtype in table.DTYPES
        for contender, teacher in contenders
    ]


def growth_jobs(scale: Scale) -> list[Job]:
    """Ours over the number of lessons, with a teacher's cache and without, the length of the reply at as many tokens a
    step, and the vocabulary."""
    sizes = [(lessons, 64, 8, 49_152, 0) for lessons in (100, 10_000, 1_000_000)]
    sizes += [(lessons, 64, 8, 49_152, 8) for lessons in (100, 10_000, 100_000)]
    sizes += [(400, reply, 2_048 // reply, 49_152, 0) for reply in (64, 256, 1_024)]
    sizes += [(400, 64, 8, vocabulary, 0) for vocabulary in (32_768, 65_536, 131_072, 262_144)]
    steps = f"steps={scale.growth_steps}"
    return [
        Job(
            "growth",
            "ours",
            f"lessons={lessons} reply={reply} batch={batch} {steps} vocabulary={vocabulary} cached={cached}",
            1,
        )
        for lessons, reply, batch, vocabulary, cached in sizes
        if lessons <= scale.most_lessons
    ]


def scoring_jobs(scale: Scale) -> list[Job]:
    """Choices scored by the harness at each batch size, and by ours, which finds its own."""
    tokens = scale.scored * table.CHOICES * table.CHOICE_TOKENS
    return list(_answering("scoring", ("lm_eval",), scale, f"prompts={scale.scored} tokens={tokens}"))


def generation_jobs(scale: Scale) -> list[Job]:
    """Replies by `generate`, by the harness and by ours."""
    told = f"prompts={scale.answered} reply={table.REPLY_TOKENS}"
    return list(_answering("generation", ("plain", "lm_eval"), scale, told))


def _answering(work: str, peers: Sequence[str], scale: Scale, told: str) -> Iterator[Job]:
    for dtype in table.DTYPES:
        at = f"{told} dtype={dtype}"
        for peer in peers:
            yield from (Job(work, peer, f"{at} batch={size}", 1) for size in scale.peer_batches)
        yield Job(work, "ours", at, 2)


def measure(jobs: Sequence[Job], workers: Workers, ledger: Path, console: Console) -> None:
    """Every repeat of every job that the ledger lacks, contenders in turn; each answer is kept as it comes.

    What failed before is tried again.
    """
    done = {one[:4] for one in read(ledger) if "failed" not in one.figures}
    missing = [
        (job, repeat)
        for repeat in range(max(job.repeats for job in jobs))
        for job in jobs
        if repeat < job.repeats and (job.work, job.contender, job.setting, repeat) not in done
    ]
    with ledger.open("a", encoding="utf-8") as lines:
        for number, (job, repeat) in enumerate(missing, 1):
            figures = workers.do(job)
            lines.write(json.dumps([job.work, job.contender, job.setting, repeat, figures]) + "\n")
            lines.flush()
            said = figures.get("failed") or f"{figures['seconds']:.3f} s"
            console.print(f"{number}/{len(missing)} {job.work} {job.contender} {job.setting}: {said}", highlight=False)


def read(ledger: Path) -> Iterator[Measured]:
    """All answers so far."""
    if ledger.exists():
        with ledger.open(encoding="utf-8") as lines:
            yield from (Measured(*json.loads(line)) for line in lines)


def fastest_chunks(scale: Scale, ledger: Path) -> dict[str, str]:
    """Each peer's fastest chunk size. Raises SystemExit where a peer gave no figure at any."""
    seconds = {one[1:3]: one.figures["seconds"] for one in read(ledger) if "seconds" in one.figures}
    chunks = {}
    for peer, sizes in CHUNKS.items():
        tried = {size: seconds.get((peer, f"{scale.tried_at} chunk={size}")) for size in sizes}
        times = {size: time for size, time in tried.items() if time is not None}
        if not times:
            raise SystemExit(f"'{peer}' did not run at any chunk size; see {LOG}")
        chunks[peer] = min(times, key=times.__getitem__)
    return chunks


def medians(measured: Sequence[Measured]) -> list[table.Row]:
    """One row for each work, contender and setting: the median of the repeats; None where none gave a figure."""
    together: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for one in measured:
        together.setdefault((one.work, one.contender, one.setting), []).append(one.figures)
    return [
        table.Row(
            *what,
            **{
                name: statistics.median(known) if (known := [each[name] for each in repeats if name in each]) else None
                for name in table.FIGURES
            },
        )
        for what, repeats in together.items()
    ]


def machine() -> table.Row:
    """On what and when the last of it was measured; a row without figures."""
    cores = Path("/proc/cpuinfo")
    names = {line.partition(": ")[2] for line in cores.read_text().splitlines() if line.startswith("model name")}
    pins = {line for file in HERE.glob("requirements-*.txt") for line in file.read_text().split() if "==" in line}
    known = dict(pin.split("==") for pin in pins)
    versions = {name: known[name] for name in ("torch", "transformers", "peft", "trl", "lm_eval")}
    liger = re.search(r"liger-kernel==(\S+)", (HERE.parent / "Makefile").read_text(encoding="utf-8"))
    assert liger is not None
    told = {
        "processor": "_".join(" ".join(sorted(names)).split()) or platform.machine(),
        "threads": FULL.threads,
        "python": platform.python_version(),
        **versions,
        "liger_kernel": liger[1],
        "date": date.today().isoformat(),
    }
    setting = " ".join(f"{name}={value}" for name, value in told.items())
    return table.Row("machine", "ours", setting, None, None, None, None, None)


def main(arguments: Sequence[str]) -> None:
    """Measure what is asked for, then write the results and their page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=WORKS, help="one work alone")
    parser.add_argument("--fresh", action="store_true", help="measure again what is asked for")
    parser.add_argument("--quick", action="store_true", help="a trial at the smallest sizes; writes no results")
    parser.add_argument("--table", action="store_true", help="write the page from the results that are there")
    asked = parser.parse_args(arguments)
    if not asked.table:
        works = (asked.only,) if asked.only else WORKS
        ledger = _measured(works, QUICK if asked.quick else FULL, forget=asked.fresh or asked.quick)
        if asked.quick:
            print(table.page(medians(list(read(ledger)))))
            return
        table.save(RESULTS, [machine(), *medians(list(read(ledger)))])
    write_atomically(PAGE, table.page(table.load(RESULTS)))


def _measured(works: Sequence[str], scale: Scale, *, forget: bool) -> Path:
    """The file of all answers, these works' among them; `forget` those that it has of them."""
    # Only here: `--table` needs no torch.
    import prepare

    prepare.chats()
    prepare.questions()
    ledger = HERE / scale.ledger
    if forget:
        others = [one for one in read(ledger) if one.work not in works]
        write_atomically(ledger, "".join(json.dumps(one) + "\n" for one in others))
    console = Console(soft_wrap=True)
    with Workers(LOG, threads=scale.threads) as workers:
        if "matmul" in works:
            measure(matmul_jobs(), workers, ledger, console)
        if "head" in works:
            measure(chunk_jobs(scale), workers, ledger, console)
            measure(head_jobs(scale, fastest_chunks(scale, ledger)), workers, ledger, console)
        if "step" in works:
            measure(step_jobs(scale), workers, ledger, console)
        if "growth" in works:
            jobs = growth_jobs(scale)
            for size in (table.parsed(job.setting) for job in jobs):
                prepare.lessons(int(size["lessons"]), reply_tokens=int(size["reply"]))
                prepare.random_model(int(size["vocabulary"]))
            measure(jobs, workers, ledger, console)
        if "scoring" in works:
            measure(scoring_jobs(scale), workers, ledger, console)
        if "generation" in works:
            measure(generation_jobs(scale), workers, ledger, console)
    return ledger


if __name__ == "__main__":
    main(sys.argv[1:])
