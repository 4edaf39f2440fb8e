"""How well the offline judges rank what others labelled: python benchmarks/judges.py FOLDER

The folder has the public sets by the names below. Nothing is fitted on these rows, and nothing chosen by them but who
is heard on comments (Surge AI).
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from rich.console import Console
from rich.table import Table

from limbeck.files import read_table
from limbeck.judges.calibrate import label_of
from limbeck.judges.harm import Harmful
from limbeck.judges.refusal import Refusal
from limbeck.models.encoder import ModelTools
from limbeck.protocols import Exchange
from limbeck.records import Verdict
from limbeck.stats import NOT_MEASURED, Figure, auc, kappa, proportion

Pair = tuple[Exchange, Exchange]
TURN = "\n\nAssistant:"
# Replies this long are read in many passages.
LONG_WORDS = 300


def main(folder: Path) -> None:
    """Print one table."""
    drawn = Table("set", "harm or figure", "n", "value (95 % interval)")
    for name, what, count, figure in figures(folder):
        shown = NOT_MEASURED
        if figure.value is not None and figure.low is not None and figure.high is not None:
            shown = f"{figure.value:.3f} ({figure.low:.3f}-{figure.high:.3f})"
        drawn.add_row(name, what, str(count), shown)
    Console(width=100).print(drawn)
    texts = [row.values["text"] for row in read_table(folder / "surge_toxicity" / "toxicity_en.csv")]
    print(f"{replies_per_second(texts):.1f} replies of {LONG_WORDS} words a second (refusal)")


def figures(folder: Path) -> Iterator[tuple[str, str, int, Figure]]:
    """Each set, what is measured, of how many, and the figure."""
    rows = [row.values for row in read_table(folder / "pyrit_scorer_evals" / "refusal_scorer__refusal.csv")]
    replies = [Exchange("", row["objective"], row["assistant_response"]) for row in rows]
    refused = [verdict.refused != "none" for verdict in graded(Refusal(), replies)]
    yield (
        "PyRIT refusals",
        "refused or not, kappa",
        len(rows),
        kappa(refused, [label_of("", row["human_score"]) for row in rows]),
    )

    rows = [row.values for row in read_table(folder / "surge_toxicity" / "toxicity_en.csv")]
    toxic, other = (
        [Exchange("", "", row["text"]) for row in rows if (row["is_toxic"] == "Toxic") is wanted]
        for wanted in (True, False)
    )
    yield "Surge AI", "toxicity, AUC", len(rows), auc(scores(toxic, "toxicity"), scores(other, "toxicity"))

    scenes = json.loads((folder / "safetext" / "SafeText.json").read_text())
    unsafe, safe = (
        [Exchange("", scene, text) for scene, said in scenes.items() for text in said[side]]
        for side in ("unsafe", "safe")
    )
    yield (
        "SafeText",
        "unsafe_advice, AUC",
        len(unsafe) + len(safe),
        auc(scores(unsafe, "unsafe_advice"), scores(safe, "unsafe_advice")),
    )

    rows = [row.values for row in read_table(folder / "crows_pairs" / "crows_pairs_anonymized.csv")]
    pairs = [
        (Exchange("", "", row["sent_more"]), Exchange("", "", row["sent_less"]))
        for row in rows
        if row["stereo_antistereo"] == "stereo"
    ]
    yield "CrowS-Pairs", "bias, more stereotyping scores higher", len(pairs), ranked(pairs, "bias")

    lines = (folder / "hh_harmless_pref500" / "hh_harmless_test500.jsonl").read_text().splitlines()
    pairs = [(last(row["rejected"]), last(row["chosen"])) for row in map(json.loads, lines)]
    yield "hh-rlhf", "any harm, rejected scores higher", len(pairs), ranked(pairs)


def graded(judge: Refusal | Harmful, replies: Sequence[Exchange]) -> list[Verdict]:
    with judge.open(ModelTools()) as opened:
        return list(opened.grade([one._replace(id=str(at)) for at, one in enumerate(replies)]))


def scores(replies: Sequence[Exchange], harm: str | None = None) -> list[float]:
    """The score of this harm, or the greatest of all."""
    found = [one.harm or {} for one in graded(Harmful(), replies)]
    return [one[harm] if harm else max(one.values(), default=0.0) for one in found]


def ranked(pairs: Sequence[Pair], harm: str | None = None) -> Figure:
    """In which share of pairs the first scores higher."""
    both = scores(list(chain.from_iterable(pairs)), harm)
    return proportion([first > second for first, second in zip(both[::2], both[1::2], strict=True)])


def last(chat: str) -> Exchange:
    """The last reply of a chat, and the turn that it answers."""
    before, _, reply = chat.rpartition(TURN)
    return Exchange("", before.rpartition("\n\nHuman:")[2].strip(), reply.strip())


def replies_per_second(texts: Sequence[str]) -> float:
    """How many long replies in the words of these texts the refusal judge reads a second, once it is loaded."""
    words, draw = " ".join(texts).split(), random.Random(0)
    # No passage twice, for it would be read once.
    replies = [Exchange("", "What is it?", " ".join(draw.choices(words, k=LONG_WORDS))) for _ in range(64)]
    graded(Refusal(), replies[:2])
    started = time.perf_counter()
    graded(Refusal(), replies)
    return len(replies) / (time.perf_counter() - started)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
