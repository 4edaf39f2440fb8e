"""results.json as the page docs/benchmarks.md."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

FIGURES = ("seconds", "supervised_tokens_per_s", "extra_mb", "peak_mb", "relative_error")
DTYPES = ("float32", "bfloat16")
# Who takes the head in chunks.
CHUNKED = ("trl", "liger")
NAMES = {"plain": "plain torch", "trl": "TRL", "liger": "Liger", "lm_eval": "lm-evaluation-harness", "ours": "Limbeck"}
# What multiplies: PyTorch, and the layers of a model that Limbeck opened.
PRODUCTS = {"plain": "torch.mm", "ours": "Limbeck's layers"}
# SmolLM2-135M: its width and its tokens, and the weights of its 30 layers (two attention projections as wide as the
# model, two a third as wide, three of the MLP).
HIDDEN, VOCABULARY = 576, 49_152
BACKBONE = 30 * HIDDEN * (2 * 576 + 2 * 192 + 3 * 1_536)

# Continuations of a question and the tokens of each, and the tokens that a reply may have.
CHOICES, CHOICE_TOKENS, REPLY_TOKENS = 4, 8, 48


class Row(NamedTuple):
    """Medians of a contender at a work; None is not measured. MB are 10^6 bytes."""

    work: str
    contender: str
    setting: str
    seconds: float | None
    supervised_tokens_per_s: float | None
    extra_mb: float | None
    peak_mb: float | None
    relative_error: float | None


def load(file: Path) -> list[Row]:
    """The rows of results.json; none where there is no such file."""
    return [Row(**row) for row in json.loads(file.read_text(encoding="utf-8"))] if file.exists() else []


def save(file: Path, rows: Iterable[Row]) -> None:
    """The rows as results.json, a row a line."""
    lines = ",\n".join(json.dumps(row._asdict()) for row in rows)
    file.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def parsed(setting: str) -> dict[str, str]:
    """The words of a setting (`rows=1024 beta=0.5`) by name."""
    return dict(word.split("=", 1) for word in setting.split())


def page(rows: Sequence[Row]) -> str:
    """The whole page as Markdown; a work without rows is said to be not measured."""
    peaks = {dtype: _peak(rows, dtype) for dtype in DTYPES}
    tables = {
        "MACHINE": _machine([row for row in rows if row.work == "machine"]),
        "PEAK": _peaks(rows),
        "BOUNDS": _bounds(rows, peaks),
        "HEAD": _head([row for row in rows if row.work == "head"], peaks),
        "STEP": _step([row for row in rows if row.work == "step"], peaks),
        "GROWTH": _growth([row for row in rows if row.work == "growth"]),
        "SCORING": _answers([row for row in rows if row.work == "scoring"]),
        "GENERATION": _answers([row for row in rows if row.work == "generation"]),
    }
    text = PAGE
    for name, lines in tables.items():
        text = text.replace(f"[{name}]", "\n".join(lines) or "*Not measured yet.*")
    return text


def head_flops(setting: dict[str, str]) -> float:
    """The floor of the head: one product each for logits and the hidden states' gradient, one more for a trainable
    weight's gradient, one for a live teacher's logits."""
    products = 2 + (setting["head"] == "trainable") + (setting["teacher"] == "live")
    return 2.0 * int(setting["rows"]) * VOCABULARY * HIDDEN * products


def step_flops(setting: dict[str, str]) -> float:
    """The floor of one training step without padding: every token through the layers, every supervised one through
    the head, forward and back to its inputs, and forward once more for a live teacher."""
    passes = 2 + (setting["teacher"] == "live")
    weights = BACKBONE * int(setting["tokens"]) + HIDDEN * VOCABULARY * int(setting["supervised"])
    return 2.0 * passes * weights / int(setting["steps"])


def _share(flops: float, seconds: float | None, peak: float | None) -> str:
    return _number(flops / seconds / peak if seconds is not None and peak is not None else None, ".0%")


def _peak(rows: Sequence[Row], dtype: str, *, by: Sequence[str] = tuple(PRODUCTS)) -> float | None:
    """FLOP/s of the fastest matrix product."""
    found = []
    for row in rows:
        setting = parsed(row.setting)
        if row.work == "matmul" and row.contender in by and setting["dtype"] == dtype and row.seconds is not None:
            found.append(2 * int(setting["M"]) * int(setting["K"]) * int(setting["N"]) / row.seconds)
    return max(found, default=None)


def _peaks(rows: Sequence[Row]) -> list[str]:
    lines = []
    for dtype in DTYPES:
        peaks = [_peak(rows, dtype, by=[contender]) for contender in PRODUCTS]
        if any(peaks):
            lines.append((dtype, *(_number(peak and peak / 1e9, ".0f") for peak in peaks)))
    return _table(("peak of matrix products, GFLOP/s", *PRODUCTS.values()), lines)


def _machine(rows: Sequence[Row]) -> list[str]:
    told = parsed(rows[-1].setting) if rows else {}
    names = {name: value.replace("_", " ") if name == "processor" else value for name, value in told.items()}
    return _table(list(names), [list(names.values())] if names else [])


class _Bound(NamedTuple):
    """What one contender's figure is divided by another's, and what is wanted of that: at `most`, or at least."""

    what: str
    ratios: Sequence[float]
    wanted: str

    @property
    def line(self) -> tuple[str, str, str]:
        ends = sorted({f"{ratio:.2f}" for ratio in self.ratios}, key=float)
        return self.what, " to ".join(dict.fromkeys((*ends[:1], *ends[-1:]))) or "not measured", self.wanted


def _bounds(rows: Sequence[Row], peaks: dict[str, float | None]) -> list[str]:
    """How the figures stand to one another."""
    heads: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in rows:
        if row.work == "head" and row.seconds is not None and row.extra_mb is not None:
            setting = " ".join(word for word in row.setting.split() if not word.startswith("chunk="))
            if parsed(setting)["dtype"] == "float32":
                heads.setdefault((setting, row.contender), []).append((row.seconds, row.extra_mb))
    fastest = {at: min(seconds for seconds, _ in found) for at, found in heads.items()}
    least = {at: min(extra for _, extra in found) for at, found in heads.items()}
    ours = [setting for setting, contender in heads if contender == "ours"]
    at_peaks = {"torch.mm": _peak(rows, "float32", by=["plain"]), "the fastest product": peaks["float32"]}
    times = {
        peer: [fastest[at, peer] / fastest[at, "ours"] for at in ours if (at, peer) in fastest]
        for peer in ("plain", *CHUNKED)
    }
    at_best = [least[at, "ours"] / min(heads[at, "trl"])[1] for at in ours if (at, "trl") in heads]
    memory = {peer: [least[at, "ours"] / least[at, peer] for at in ours if (at, peer) in least] for peer in CHUNKED}
    steps = {
        (row.contender, parsed(row.setting)["teacher"], parsed(row.setting)["dtype"]): row
        for row in rows
        if row.work == "step"
    }
    bounds = [
        *(
            _Bound(
                f"head: seconds, of the floor at the peak of {name}",
                [fastest[at, "ours"] * peak / head_flops(parsed(at)) for at in ours if peak is not None],
                "1.2 at most",
            )
            for name, peak in at_peaks.items()
        ),
        _Bound("head: seconds of TRL's and Liger's, of ours", times["trl"] + times["liger"], "above 1"),
        _Bound("head: seconds of plain torch's, of ours", times["plain"], "above 1"),
        _Bound("head: extra memory, of TRL's where it is fastest", at_best, "0.25 at most"),
        _Bound("head: extra memory, of TRL's least", memory["trl"], "0.25 at most"),
        _Bound("head: extra memory, of Liger's least", memory["liger"], "1 at most"),
    ]
    for dtype in DTYPES:
        for teacher, wanted in (("live", "3 at least"), ("cached", "4.5 at least")):
            pair = steps.get(("ours", teacher, dtype)), steps.get(("trl", "live", dtype))
            bounds.append(_Bound(f"step, {dtype}, {teacher}: tokens/s, of TRL's", _ratio("tokens", *pair), wanted))
            bounds.append(
                _Bound(f"step, {dtype}, {teacher}: peak memory, of TRL's", _ratio("peak", *pair), "0.25 at most")
            )
        pair = steps.get(("plain", "none", dtype)), steps.get(("ours", "cached", dtype))
        bounds.append(
            _Bound(f"step, {dtype}, cached: seconds, of plain torch's", _ratio("tokens", *pair), "1.2 at most")
        )
    grown = list(_grown(rows))
    for what, name, wanted in (("peak memory", "peak", "0.9 to 1.1"), ("tokens/s", "tokens", "0.9 at least")):
        ratios = [ratio for fewest, more in grown for ratio in _ratio(name, more, fewest)]
        bounds.append(_Bound(f"growth: {what}, of those at the fewest lessons", ratios, wanted))
    for work, what, peers in (("scoring", "scores", ["lm_eval"]), ("generation", "replies", ["plain", "lm_eval"])):
        for dtype, peer in product(DTYPES, peers):
            here, there = (_least_seconds(rows, work, one, dtype) for one in ("ours", peer))
            ratio = [there / here] if here is not None and there is not None else []
            bounds.append(_Bound(f"{what}, {dtype}: seconds of {NAMES[peer]}, of ours", ratio, "1.5 at least"))
    return _table(("", "found", "wanted"), [bound.line for bound in bounds])


def _grown(rows: Sequence[Row]) -> Iterator[tuple[Row, Row]]:
    """Growth over the fewest lessons on disk, and over more of them that are alike in all else."""
    alike: dict[str, dict[int, Row]] = {}
    for row in rows:
        if row.work == "growth":
            lessons, _, rest = row.setting.partition(" ")
            alike.setdefault(rest, {})[int(parsed(lessons)["lessons"])] = row
    for sizes in alike.values():
        fewest, *more = (sizes[lessons] for lessons in sorted(sizes))
        yield from ((fewest, one) for one in more)


def _least_seconds(rows: Sequence[Row], work: str, contender: str, dtype: str) -> float | None:
    """Of a contender's batches the fastest."""
    mine = (row for row in rows if (row.work, row.contender) == (work, contender))
    return min((row.seconds for row in mine if row.seconds and parsed(row.setting)["dtype"] == dtype), default=None)


def _ratio(what: str, one: Row | None, other: Row | None) -> list[float]:
    figures = [row and (row.supervised_tokens_per_s if what == "tokens" else row.peak_mb) for row in (one, other)]
    return [figures[0] / figures[1]] if figures[0] and figures[1] else []


def _head(rows: Sequence[Row], peaks: dict[str, float | None]) -> list[str]:
    """A line for each setting: the contender's fastest chunk, and the least memory of all its chunks."""
    together: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        setting = " ".join(word for word in row.setting.split() if not word.startswith("chunk="))
        together.setdefault((setting, row.contender), []).append(row)
    lines = []
    for (setting, contender), chunks in together.items():
        at = parsed(setting)
        best = min(chunks, key=lambda row: row.seconds if row.seconds is not None else float("inf"))
        lines.append((
            at["rows"],
            at["beta"],
            at["head"],
            at["dtype"],
            f"{NAMES[contender]}, {at['teacher']} teacher",
            parsed(best.setting).get("chunk", ""),
            _number(best.seconds, ".3f"),
            _share(head_flops(at), best.seconds, peaks[at["dtype"]]),
            _number(min((row.extra_mb for row in chunks if row.extra_mb is not None), default=None), ",.0f"),
            _number(best.relative_error, ".0e"),
        ))  # fmt: skip
    order = list(NAMES.values())
    lines.sort(key=lambda line: (int(line[0]), float(line[1]), *line[2:4], order.index(line[4].partition(",")[0])))
    columns = ("rows", "β", "head", "dtype", "", "chunk", "s", "of the peak", "extra MB", "relative error")
    return _table(columns, lines)


def _step(rows: Sequence[Row], peaks: dict[str, float | None]) -> list[str]:
    return _by_column(rows, {
        "": lambda row, at: NAMES[row.contender],
        "teacher": lambda row, at: at["teacher"],
        "dtype": lambda row, at: at["dtype"],
        "supervised tokens/s": lambda row, at: _number(row.supervised_tokens_per_s, ".1f"),
        "s a step": lambda row, at: _number(row.seconds, ".2f"),
        "of the peak": lambda row, at: _share(step_flops(at), row.seconds, peaks[at["dtype"]]),
        "peak MB": lambda row, at: _number(row.peak_mb, ",.0f"),
        "extra MB": lambda row, at: _number(row.extra_mb, ",.0f"),
    })  # fmt: skip


def _growth(rows: Sequence[Row]) -> list[str]:
    return _by_column(rows, {
        "lessons on disk": lambda row, at: f"{int(at['lessons']):,}",
        "ids a token in the cache": lambda row, at: at["cached"] if at.get("cached", "0") != "0" else "no cache",
        "reply tokens": lambda row, at: at["reply"],
        "vocabulary": lambda row, at: f"{int(at['vocabulary']):,}",
        "lessons a step": lambda row, at: at["batch"],
        "supervised tokens/s": lambda row, at: _number(row.supervised_tokens_per_s, ",.0f"),
        "peak MB": lambda row, at: _number(row.peak_mb, ",.0f"),
    })  # fmt: skip


def _answers(rows: Sequence[Row]) -> list[str]:
    return _by_column(rows, {
        "": lambda row, at: NAMES[row.contender],
        "dtype": lambda row, at: at["dtype"],
        "batch": lambda row, at: at.get("batch", "its own"),
        "s": lambda row, at: _number(row.seconds, ".1f"),
        "tokens/s": lambda row, at: _number(row.supervised_tokens_per_s, ",.0f"),
        "peak MB": lambda row, at: _number(row.peak_mb, ",.0f"),
        "difference": lambda row, at: _number(row.relative_error, ".2g"),
    })  # fmt: skip


def _by_column(rows: Sequence[Row], columns: dict[str, Callable[[Row, dict[str, str]], str]]) -> list[str]:
    """A line for each row; each column is made of the row and of its setting."""
    settings = [(row, parsed(row.setting)) for row in rows]
    lines = [[cell(row, at) for cell in columns.values()] for row, at in settings]
    return _table(list(columns), lines)


def _number(value: float | None, form: str) -> str:
    return "not measured" if value is None else f"{value:{form}}"


def _table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    return list(_markdown(columns, lines)) if lines else []


def _markdown(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
    for line in lines:
        yield f"| {' | '.join(line)} |"


PAGE = """\
# Benchmarks

Limbeck beside TRL, Liger, lm-evaluation-harness and plain torch on the same work. `make bench` installs the peers in
environments of their own, measures, and writes `benchmarks/results.json` and this page; a stopped run goes on where it
was. Every figure is the median of its repeats, each in a process of its own on all cores, the contenders in turn.
*Extra* memory is how far the resident size rose above what it was before, *peak* is that of the whole process; MB are
10⁶ bytes.

## The machine

[MACHINE]

[PEAK]

## At a glance

Smallest and largest ratio over all sizes, β, heads and numbers of lessons in float32 (the step, scores and replies also
in bfloat16), against what Limbeck wants of itself. *Floor* is the multiplications that cannot be avoided at a
peak above; blocks of 128 rows, which keep memory small, do not reach the fastest product's (`docs/notebook.md`, *MKL
and oneDNN*). Plain torch holds all logits at once. Of several batches the fastest counts.

[BOUNDS]

## The head alone

Loss and gradients from hidden states (576 wide) over a vocabulary of 49,152: forward KL (β = 0), reverse KL (β = 1) and
the generalised Jensen-Shannon divergence between them. A *frozen* head has no gradient of its own. A cached teacher is
its 32 likeliest tokens and the mass of the rest. *Of the peak* compares the multiplications that cannot be avoided with
the fastest matrix product above in the same dtype. The error is the largest of |got − float64| / |float64| over the
loss and its gradients, each as a whole, on the same inputs. TRL is `ChunkedDivergenceFunction`, Liger
`LigerFusedLinearJSDLoss`; some chunk sizes (rows, for TRL × columns) were tried at 1,024 rows, a frozen head and
β = 0.5. The fastest of them is used; the extra memory there is the least of all of them.

[HEAD]

## The training step

LoRA of rank 16 on all linear layers of SmolLM2-135M, whose teacher is the same model; eight chats a step with
log-normal lengths (prompt median 37 tokens, reply median 60, none above 220), divergence with β = 0.5. TRL is
`GKDTrainer` with `lmbda=0` and without gradient checkpointing; plain torch is a transformers loop that learns the reply
without a teacher. A supervised token is one of a reply, its end included, whatever else a contender computes; *of the
peak* counts the multiplications of tokens without padding and of the head at supervised ones.

[STEP]

## Growth

`limbeck.train` over lessons in a file: 40 optimizer steps of cross-entropy, and with a cache of forward KL too, with a
random model of four layers, 256 wide. Replies of another length are as many tokens a step.

[GROWTH]

## Scoring

Log-likelihoods by SmolLM2-135M of four continuations of eight tokens behind each of 250 questions, whose lengths are
log-normal (median 80 tokens, none above 220): 1,000 requests. The harness is its model `hf` at some batch sizes; it
takes the line end of the chat template for a part of the continuation. Tokens are those of the continuations. The
difference is |got − float64| / |float64| over the scores of the first 16 questions.

[SCORING]

## Generation

Greedy replies of up to 48 tokens to 128 of these questions. Plain torch is transformers' `generate` over padded batches
in the order of the questions. Tokens are 48 a reply. The difference is the share of the first 16 replies that are not
what `generate` says in float32 to that question alone.

[GENERATION]
"""
