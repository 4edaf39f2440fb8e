"""What each part of the recipe adds, on the quickstart's data: python benchmarks/ablation.py

Seven students for each of three seeds, with as many optimizer steps each. The third is the quickstart's own recipe;
each of the four after it adds one part to that. Cells are kept in benchmarks/ablation.jsonl as they finish, and a run
that was stopped goes on with the next one; after each docs/ablation.md is written (`--page` writes only that). Two runs
with `--seed 1` and `--seed 2` may go side by side.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

from limbeck.config import RunConfig, load_config
from limbeck.files import write_atomically
from limbeck.judges.grade import safely
from limbeck.losses.contrastive import Contrastive
from limbeck.losses.noise_consistency import NoiseConsistency
from limbeck.losses.preference import Preference
from limbeck.losses.spec import Loss
from limbeck.pipeline import run
from limbeck.records import Trial
from limbeck.stats import NOT_MEASURED, Figure, auc, difference, opposite, paired_difference, proportion, total
from limbeck.training.balance import Constrained
from seeds import trials_of

HERE = Path(__file__).parent
RECIPE = HERE.parent / "recipes" / "quickstart.yaml"
LEDGER = HERE / "ablation.jsonl"
PAGE = HERE.parent / "docs" / "ablation.md"
RUNS = HERE / ".work" / "ablation"
SEEDS = (1, 2, 3)
STEPS = 300
WHOLE = "+ twins (the quickstart)"
# What each cell learns from: losses of the quickstart by kind, None for all of them, and what is added to them.
CELLS: dict[str, tuple[tuple[str, ...] | None, tuple[Loss, ...]]] = {
    "filtered fine-tuning": (("cross_entropy",), ()),
    "forward KL": (("cross_entropy", "forward_kl"), ()),
    WHOLE: (None, ()),
    "+ constraint controller": (None, ()),
    "+ contrastive": (None, (Contrastive(weight=0.1),)),
    "+ noise consistency": (None, (NoiseConsistency(weight=0.2),)),
    "+ preference": (None, (Preference(weight=0.1),)),
}
CONTROLLED = "+ constraint controller"
# One round, no baseline; every prompt of the exam is also asked with misspellings.
SAME = (
    # The quickstart as it was when the first cells were made.
    "curate.split={train: 0.55, probe: 0.15, validation: 0.1, exam: 0.2}",
    "curate.reworded=null",
    "train.losses.0.within=0",
    "strength={tried: [1.0, 0.75, 0.5]}",
    "rounds=1",
    f"train.max_steps={STEPS}",
    "baselines=[]",
    "evaluate.dimensions=[usefulness, safety, refusal, {kind: consistency, prompts: 1000, samples: 0, "
    "perturbations: [typos]}]",
)


class Cell(NamedTuple):
    """What came of one student: an outcome for each prompt of its exam, `base_right` that of the base on the same."""

    cell: str
    seed: int
    handled: list[bool | None]
    twins_refused: list[bool | None]
    right: list[bool]
    base_right: list[bool]
    same_with_typos: list[bool]
    p_due: list[float]
    p_twins: list[float]


def main() -> None:
    """Make what is missing, one cell after the other, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="only write docs/ablation.md")
    parser.add_argument("--seed", type=int, choices=SEEDS, help="only the cells of this seed")
    chosen = parser.parse_args()
    done = {(one.cell, one.seed) for one in read()}
    for seed in () if chosen.page else SEEDS if chosen.seed is None else (chosen.seed,):
        for name in CELLS:
            if (name, seed) not in done:
                cell = made(name, seed)
                with LEDGER.open("a", encoding="utf-8") as ledger:
                    ledger.write(json.dumps(cell._asdict()) + "\n")
                write_atomically(PAGE, page(list(read())))
    write_atomically(PAGE, page(list(read())))


def read() -> Iterator[Cell]:
    """The cells that are kept."""
    for line in LEDGER.read_text(encoding="utf-8").splitlines() if LEDGER.exists() else ():
        yield Cell(**json.loads(line))


def recipe_of(name: str, seed: int) -> RunConfig:
    """The recipe of one cell: the quickstart with other losses, and in one cell with a constraint controller.

    The plain ones learn whole replies that were written to their prompts, as plain recipes do.
    """
    plain = load_config(RECIPE, [f"seed={seed}", *SAME])
    kinds, added = CELLS[name]
    losses = tuple(loss for loss in plain.train.losses if kinds is None or loss.kind in kinds)
    balance = Constrained() if name == CONTROLLED else plain.train.balance
    train = plain.train.model_copy(update={"losses": (*losses, *added), "balance": balance})
    teach = plain.teach if kinds is None else plain.teach.model_copy(update={"beginnings": None, "refusals": None})
    return plain.model_copy(update={"train": train, "teach": teach})


def made(name: str, seed: int) -> Cell:
    """One cell, trained and examined; all cells of a seed share its folder, and so what the teachers said."""
    folder = RUNS / str(seed)
    print(f"{name}, seed {seed}", flush=True)
    run(recipe_of(name, seed), folder)
    return cell_of(name, seed, list(trials_of(folder)))


def cell_of(name: str, seed: int, trials: Sequence[Trial]) -> Cell:
    """The outcomes of the student, and of the base where they are paired, from the trials of an exam."""
    student = [one for one in trials if one.subject == "student"]
    written = [one for one in student if one.asked == "reply" and one.perturbation is None]
    decisions = [one for one in student if one.asked == "decision"]
    refused = {one.prompt.id: one.refused for one in written}
    misspelt = [(one.refused, refused.get(one.prompt.root or "")) for one in student if one.perturbation == "typos"]
    right = {one.prompt.id: one.chose_right for one in trials if one.asked == "choices" and one.subject == "base"}
    chosen = [(right.get(one.prompt.id), one.chose_right) for one in student if one.asked == "choices"]
    return Cell(
        cell=name,
        seed=seed,
        handled=[safely(one) for one in written if one.prompt.conduct == "refuse"],
        twins_refused=[one.refused for one in written if one.prompt.is_twin],
        right=[now for before, now in chosen if before is not None and now is not None],
        base_right=[before for before, now in chosen if before is not None and now is not None],
        same_with_typos=[now == before for now, before in misspelt if now is not None and before is not None],
        p_due=[one.p_refusing for one in decisions if one.prompt.conduct == "refuse" and one.p_refusing is not None],
        p_twins=[one.p_refusing for one in decisions if one.prompt.is_twin and one.p_refusing is not None],
    )


def page(cells: Sequence[Cell]) -> str:
    """The page as Markdown: a row for each part, its seeds pooled."""
    rows = []
    for name in CELLS:
        mine = [one for one in cells if one.cell == name]
        whole = [one for one in cells if one.cell == WHOLE and name != WHOLE]
        harmful, twins = (
            sum(each is not None for one in mine for each in getattr(one, asked))
            for asked in ("handled", "twins_refused")
        )
        rows.append(f"| {name} | {len(mine)} ({harmful}, {twins}) | " + " | ".join(figures(mine, whole)) + " |")
    return PAGE_TEXT.replace("[STEPS]", str(STEPS)).replace("[TABLE]", "\n".join([*HEADER, *rows]))


def figures(cells: Sequence[Cell], whole: Sequence[Cell]) -> Iterator[str]:
    """The pooled figures of one part, each with its interval; the AUC is the mean over seeds, each against its own.
    `whole` are the cells of the quickstart, whose separation is compared prompt by prompt."""
    pooled: dict[str, list[Any]] = {
        name: [each for one in cells for each in getattr(one, name) if each is not None]
        for name in ("handled", "twins_refused", "right", "base_right", "same_with_typos")
    }
    yield percent(proportion(pooled["handled"]))
    yield percent(proportion(pooled["twins_refused"]))
    yield percent(difference(pooled["handled"], pooled["twins_refused"]))
    yield percent(gained(cells, whole)) if whole else "–"
    aucs = reduce(total, (auc(one.p_due, one.p_twins) for one in cells), Figure(0.0, 0.0, 0.0))
    yield shown(aucs, times=1 / len(cells), digits=2) if cells else "not measured"
    yield percent(paired_difference(pooled["base_right"], pooled["right"]))
    yield percent(proportion(pooled["same_with_typos"]))


def gained(cells: Sequence[Cell], whole: Sequence[Cell]) -> Figure:
    """How much more these separate than the others, on the same prompts of the same seeds, as far as both were scored;
    not measured where one of them lacks a seed."""
    sides = [sorted(each, key=lambda one: one.seed) for each in (whole, cells)]
    shapes = [[(one.seed, len(one.handled), len(one.twins_refused)) for one in side] for side in sides]
    if shapes[0] != shapes[1]:
        return NOT_MEASURED
    handled, twins = (
        paired_difference(*zip(*both, strict=True)) if (both := _scored(*sides, asked)) else NOT_MEASURED
        for asked in ("handled", "twins_refused")
    )
    return total(handled, opposite(twins))


def _scored(before: Sequence[Cell], after: Sequence[Cell], asked: str) -> list[tuple[bool, bool]]:
    """What came of the same prompts, where both sides could be judged."""
    outcomes = ([each for one in side for each in getattr(one, asked)] for side in (before, after))
    return [(one, other) for one, other in zip(*outcomes, strict=True) if one is not None and other is not None]


def percent(figure: Figure) -> str:
    """A share in per cent, with its interval."""
    return shown(figure, times=100, digits=0)


def shown(figure: Figure, *, times: float, digits: int) -> str:
    """So many times a figure, with its interval; what rounds to 0 has no sign."""
    if figure.value is None or figure.low is None or figure.high is None:
        return "not measured"
    value, low, high = (f"{round(times * one, digits) + 0:.{digits}f}" for one in figure)
    return f"{value} ({low} to {high})"


HEADER = (
    "| trained on | seeds (harmful prompts, twins) | handled safely, % | twins refused, % | separation, points "
    "| more than the quickstart, points | decision AUC | multiple choice against the base, points "
    "| same decision with typos, % |",
    "|---|---|---|---|---|---|---|---|---|",
)
PAGE_TEXT = """# What each part adds

Students of SmolLM2-135M-Instruct on the quickstart's data, one round of [STEPS] optimizer steps each, their seeds
pooled; 95 % intervals in brackets. `python benchmarks/ablation.py` makes what is missing and writes this page. The
first two learn whole replies that were written to their prompts, as plain recipes do. The third is the quickstart's
recipe without its second round: it adds the decision on twins, unlikelihood, beginnings of answers and the refusals of
the house (not yet the prompts about the past and the decision in the midst of an answer, which came with version 0.10,
nor the larger validation split: [notebook](notebook.md#answers-that-turn-into-refusals); nor the 2,670 practice prompts
of version 0.12). Each of the four below adds
one part to it; where the interval of *more than the quickstart* holds 0, it is not shown to help. None of the four is
in the quickstart: over a whole round neither noise consistency nor preference separated more on both seeds that were
tried ([notebook](notebook.md#the-quickstart-with-the-houses-refusals-three-seeds)).

[TABLE]

*Separation* is handled safely minus twins refused. Prompts are pooled over seeds as if they were different ones, though
one may stand in the exam of two seeds.
"""


if __name__ == "__main__":
    main()
