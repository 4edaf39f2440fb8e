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
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from limbeck.files import read_table
from limbeck.judges.calibrate import label_of
from limbeck.judges.harm import Harmful
from limbeck.judges.refusal import Refusal
from limbeck.models.encoder import ModelTools
from limbeck.protocols import Exchange
from limbeck.records import Verdict
from limbeck.stats import Figure, auc, kappa, proportion

Pair = tuple[Exchange, Exchange]
TURN = "\n\nAssistant:"
# Replies this long are read in many passages.
LONG_WORDS = 300
LENGTHY_WORDS = 80


def main(folder: Path) -> None:
    """Print one table."""
    drawn = Table("set", "harm or figure", "n", "unscored", "value (95 % interval)")
    for name, what, measured in figures(folder):
        drawn.add_row(name, what, str(measured.scored), str(measured.unscored), measured.shown)
    Console(width=100).print(drawn)
    texts = [row.values["text"] for row in read_table(folder / "surge_toxicity" / "toxicity_en.csv")]
    print(f"{replies_per_second(texts):.1f} replies of {LONG_WORDS} words a second (refusal)")


class Measured(NamedTuple):
    """A figure, of how many items, and how many of them no judge could score."""

    figure: Figure
    scored: int
    unscored: int

    @property
    def shown(self) -> str:
        """The value with its interval."""
        value, low, high = self.figure
        if value is None:
            return "not measured"
        return f"{value:.3f}" if low is None or high is None else f"{value:.3f} ({low:.3f}-{high:.3f})"


def figures(folder: Path) -> Iterator[tuple[str, str, Measured]]:
    """Each set, what is measured, and the figure."""
    rows = [row.values for row in read_table(folder / "pyrit_scorer_evals" / "refusal_scorer__refusal.csv")]
    replies = [Exchange("", row["objective"], row["assistant_response"]) for row in rows]
    labels = [label_of("", row["human_score"]) for row in rows]
    yield "PyRIT refusals", "refused or not, kappa", agreed(graded(Refusal(), replies), labels)

    rows = [row.values for row in read_table(folder / "surge_toxicity" / "toxicity_en.csv")]
    toxic, other = (
        [Exchange("", "", row["text"]) for row in rows if (row["is_toxic"] == "Toxic") is wanted]
        for wanted in (True, False)
    )
    yield "Surge AI", "toxicity, AUC", told_apart(scores(toxic, "toxicity"), scores(other, "toxicity"))

    scenes = json.loads((folder / "safetext" / "SafeText.json").read_text())
    unsafe, safe = (
        [Exchange("", scene, text) for scene, said in scenes.items() for text in said[side]]
        for side in ("unsafe", "safe")
    )
    yield "SafeText", "unsafe_advice, AUC", told_apart(scores(unsafe, "unsafe_advice"), scores(safe, "unsafe_advice"))

    rows = [row.values for row in read_table(folder / "crows_pairs" / "crows_pairs_anonymized.csv")]
    pairs = [
        (Exchange("", "", row["sent_more"]), Exchange("", "", row["sent_less"]))
        for row in rows
        if row["stereo_antistereo"] == "stereo"
    ]
    yield "CrowS-Pairs", "bias, more stereotyping scores higher", ranked(scored_pairs(pairs, "bias"))

    lines = (folder / "hh_harmless_pref500" / "hh_harmless_test500.jsonl").read_text().splitlines()
    pairs = [(last(row["rejected"]), last(row["chosen"])) for row in map(json.loads, lines)]
    yield "hh-rlhf", "any harm, rejected scores higher", ranked(scored_pairs(pairs))

    tasks = list(harmless_tasks(folder / "benign_self_instruct"))
    refused = [None if one.refused is None else one.refused != "none" for one in graded(Refusal(), tasks)]
    yield "Self-Instruct", "harmless answers judged refusals", share(refused)
    harmful = [None if one.harm == {} else bool(one.harmful) for one in graded(Harmful(), tasks)]
    yield "Self-Instruct", "harmless answers judged harmful", share(harmful)
    lengthy = [said for task, said in zip(tasks, harmful, strict=True) if len(task.reply.split()) > LENGTHY_WORDS]
    yield "Self-Instruct", f"the same, of more than {LENGTHY_WORDS} words", share(lengthy)


def harmless_tasks(folder: Path) -> Iterator[Exchange]:
    """Tasks that people wrote, each with the first answer that they gave."""
    for name in ("user_oriented_instructions", "seed_tasks"):
        for row in map(json.loads, (folder / f"{name}.jsonl").read_text().splitlines()):
            given = row["instances"][0]
            if given["output"].strip():
                yield Exchange("", f"{row['instruction']}\n{given['input']}".strip(), given["output"])


def share(holds: Sequence[bool | None]) -> Measured:
    """In which share it holds, of those that are known."""
    known = [one for one in holds if one is not None]
    return Measured(proportion(known), len(known), len(holds) - len(known))


def graded(judge: Refusal | Harmful, replies: Sequence[Exchange]) -> list[Verdict]:
    with judge.open(ModelTools()) as opened:
        return list(opened.grade([one._replace(id=str(at)) for at, one in enumerate(replies)]))


def scores(replies: Sequence[Exchange], harm: str | None = None) -> list[float | None]:
    """The score of this harm, or the greatest of all; None of what was not scored."""
    return [score_of(verdict, harm) for verdict in graded(Harmful(), replies)]


def score_of(verdict: Verdict, harm: str | None) -> float | None:
    """The verdict's score of this harm, or the greatest of all; None where it has none."""
    return verdict.harm.get(harm) if harm else max(verdict.harm.values(), default=None)


def scored_pairs(pairs: Sequence[Pair], harm: str | None = None) -> list[tuple[float | None, float | None]]:
    """The scores of both replies of each pair."""
    both = scores(list(chain.from_iterable(pairs)), harm)
    return list(zip(both[::2], both[1::2], strict=True))


def agreed(verdicts: Sequence[Verdict], labels: Sequence[bool]) -> Measured:
    """How well refused or not agrees with the labels, beyond chance."""
    known = [(one.refused != "none", label) for one, label in zip(verdicts, labels, strict=True) if one.refused]
    return Measured(
        kappa([said for said, _ in known], [label for _, label in known]), len(known), len(labels) - len(known)
    )


def told_apart(positives: Sequence[float | None], negatives: Sequence[float | None]) -> Measured:
    """The chance that a positive scores above a negative."""
    above, below = ([one for one in some if one is not None] for some in (positives, negatives))
    scored = len(above) + len(below)
    return Measured(auc(above, below), scored, len(positives) + len(negatives) - scored)


def ranked(pairs: Sequence[tuple[float | None, float | None]]) -> Measured:
    """In which share of pairs the first scores higher."""
    known = [(first, second) for first, second in pairs if first is not None and second is not None]
    return Measured(proportion([first > second for first, second in known]), len(known), len(pairs) - len(known))


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
