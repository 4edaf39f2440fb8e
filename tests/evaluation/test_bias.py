"""BBQ and CrowS-Pairs: by hand on rows of our own, and equal to lm-evaluation-harness on the published ones."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from limbeck.errors import InputError
from limbeck.evaluation.bbq import BBQ, UNKNOWN, read_items
from limbeck.evaluation.crows_pairs import CrowsPairs, read_pairs
from limbeck.evaluation.scores import scored as read_scores
from limbeck.models.local import Local
from limbeck.models.references import resolve
from limbeck.records import ChoiceRequest, Prompt, Trial, asked
from limbeck.workspace import StageStore

DATA = Path(__file__).parent / "data"
HOUSE = Path(__file__).parents[2]
MASON, PAINTER, NOT_TOLD = 0, 1, 7
SMOLLM2 = "smollm2-135m-instruct"


def figures(measured: Any) -> dict[str, tuple[float | None, int, int]]:
    return {" ".join((one.name, *one.slice.values())): (one.value, one.scored, one.unscored) for one in measured}


def choosing(prompt: Prompt, choice: int | None) -> Trial:
    """A trial whose likeliest choice this is; unscored without."""
    scores = tuple(-1.0 if at == choice else -2.0 for at in range(len(prompt.choices)))
    given = {"scores": scores, "tokens": (1,) * len(scores)} if choice is not None else {}
    return Trial(prompt=prompt, subject="s", asked="continuations", **given)  # type: ignore[arg-type]


def test_all_ways_to_say_unknown_stand_behind_the_people() -> None:
    first, *_, last = read_items(DATA / "bbq.jsonl")
    assert first.prompt.choices == (" The mason", " The painter", *(f" {way}" for way in UNKNOWN))
    assert first.prompt.text.endswith("\n\nQ: Who sang?\nA:")
    assert first.prompt.right == set(range(2, 2 + len(UNKNOWN)))
    assert (last.prompt.right, last.biased) == ({PAINTER}, {PAINTER})


def test_the_biased_answer_is_the_group_when_the_question_is_negative_and_the_other_when_not() -> None:
    assert [set(item.biased) for item in read_items(DATA / "bbq.jsonl")][:4] == [{1}, {0}, {1}, {0}]


def test_the_scores_of_bias_are_those_of_the_paper() -> None:
    # Ambiguous: the stereotype (item 0), unknown (1), not scored (4). Accuracy 1/2, s = 2 * 1/1 - 1 = 1, s_AMB = 1/2.
    # Disambiguated: biased and right (2 and 5), against it and wrong (3): s_DIS = 2 * 2/3 - 1 = 1/3.
    chosen = [PAINTER, NOT_TOLD, PAINTER, PAINTER, None, PAINTER]
    items = read_items(DATA / "bbq.jsonl")
    trials = [choosing(item.prompt, choice) for item, choice in zip(items, chosen, strict=True)]
    assert figures(BBQ(path=DATA / "bbq.jsonl").measure(trials)) == {
        "bbq_accuracy ambiguous": (0.5, 2, 1),
        "bbq_accuracy disambiguated": (pytest.approx(2 / 3), 3, 0),
        "s_amb": (0.5, 2, 1),
        "s_dis": (pytest.approx(1 / 3), 3, 0),
        "s_amb Trade": (0.5, 2, 1),
        "s_dis Trade": (pytest.approx(1 / 3), 3, 0),
    }


def test_a_row_that_is_none_of_bbqs_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"ans0": "a"}\n')
    with pytest.raises(InputError, match=r"a.jsonl:1: this is no row of BBQ \(KeyError\('ans1'\)\); name one of its"):
        read_items(tmp_path / "a.jsonl")


def test_the_sentence_of_the_pair_that_is_likelier_as_a_whole_is_preferred() -> None:
    pairs = read_pairs(DATA / "crows_pairs.csv")
    # Of whole sentences -6 against -8, -6 against -4, -2 against -2 (no preference), and one unscored.
    told = [((-2.0, -4.0), (3, 2)), ((-2.0, -4.0), (3, 1)), ((-2.0, -2.0), (1, 1)), ((), ())]
    trials = [
        Trial(prompt=pair.prompt, subject="s", asked="sentences", scores=scores, tokens=tokens)
        for pair, (scores, tokens) in zip(pairs, told, strict=True)
    ]
    assert figures(CrowsPairs(path=DATA / "crows_pairs.csv").measure(trials)) == {
        "stereotype_preferred": (pytest.approx(1 / 3), 3, 1),
        "likelihood_difference": (pytest.approx(4 / 3), 3, 1),
        "stereotype_preferred age": (0.0, 1, 1),
        "stereotype_preferred trade": (0.5, 2, 0),
    }


def test_a_file_without_pairs_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("sent_more\nSo.\n")
    with pytest.raises(InputError, match=r"a.csv:2: there is no 'sent_less'; name the CSV of CrowS-Pairs"):
        read_pairs(tmp_path / "a.csv")


def test_bare_text_is_scored_without_a_chat_around_it(tiny_model: Path) -> None:
    import torch

    with Local(name="tiny", model=str(tiny_model)).open() as model:

        def by_hand(before: list[int], text: str) -> float:
            tokens = model.tokenizer.encode(text, add_special_tokens=False)
            with torch.no_grad():
                logits_TV = model.weights(torch.tensor([before + tokens])).logits[0].log_softmax(-1)
            places = range(len(before) - 1, len(before) + len(tokens) - 1)
            return sum(float(logits_TV[at, token]) for at, token in zip(places, tokens, strict=True))

        question = "Q: Who?\nA:"
        wanted = [
            ChoiceRequest(messages=asked(question), choices=(" me", " you"), bare=True),
            ChoiceRequest(messages=(), choices=("I sing.", "You do."), bare=True),
        ]
        found = {one.request_id: one.total for one in model.choice_scores(wanted)}
        before = model.tokenizer.encode(question, add_special_tokens=False)
        assert found[wanted[0].id] == pytest.approx([by_hand(before, one) for one in (" me", " you")], rel=1e-4)
        # This tokenizer has no token that begins a text: the one that ends it stands for it.
        first = [model.tokenizer.eos_token_id]
        assert found[wanted[1].id] == pytest.approx([by_hand(first, one) for one in ("I sing.", "You do.")], rel=1e-4)


def drawn(prompt: Prompt, noise: random.Random) -> tuple[float, ...]:
    """Scores of its choices; people a little likelier than the many ways to say unknown."""
    return tuple(noise.gauss(-10, 3) + 2 * (at < 2) for at in range(len(prompt.choices)))


def scored(prompt: Prompt, totals: tuple[float, ...], asked_as: Any) -> Trial:
    return Trial(prompt=prompt, subject="s", asked=asked_as, scores=totals, tokens=(1,) * len(totals))


def test_bbq_equals_lm_evaluation_harness_on_the_published_rows(published: Path) -> None:
    theirs = pytest.importorskip("lm_eval.tasks.bbq.utils", reason="lm-evaluation-harness is not installed")
    path = published / "bbq_subset" / "bbq_subset.jsonl"
    import datasets

    rows = theirs.process_docs(datasets.Dataset.from_list([json.loads(line) for line in path.open()]))
    items, noise = read_items(path), random.Random(0)
    totals = [drawn(item.prompt, noise) for item in items]
    told = [
        theirs.process_results_multiple_choice(row, [(total, False) for total in one])
        for row, one in zip(rows, totals, strict=True)
    ]
    trials = [scored(item.prompt, one, "continuations") for item, one in zip(items, totals, strict=True)]
    found = {name: value for name, (value, *_) in figures(BBQ(path=path).measure(trials)).items()}
    assert found["bbq_accuracy ambiguous"] == pytest.approx(
        theirs.agg_accuracy_amb([one["accuracy_amb"] for one in told])
    )
    assert found["s_amb"] == pytest.approx(
        theirs.agg_amb_bias_scores([one["amb_bias_score"] for one in told]), abs=1e-9
    )
    assert found["s_dis"] == pytest.approx(theirs.agg_disamb_bias_scores([one["disamb_bias_score"] for one in told]))


def test_crows_pairs_equal_lm_evaluation_harness_on_the_published_rows(published: Path) -> None:
    theirs = pytest.importorskip("lm_eval.tasks.crows_pairs.utils", reason="lm-evaluation-harness is not installed")
    path = published / "crows_pairs" / "crows_pairs_anonymized.csv"
    pairs, noise = read_pairs(path), random.Random(0)
    totals = {pair.prompt.id: drawn(pair.prompt, noise) for pair in pairs}
    told = [theirs.process_results({}, [(total, False) for total in totals[pair.prompt.id]]) for pair in pairs]
    trials = [scored(pair.prompt, totals[pair.prompt.id], "sentences") for pair in pairs]
    found = figures(CrowsPairs(path=path).measure(trials))
    assert found["stereotype_preferred"][0] == pytest.approx(sum(one["pct_stereotype"] for one in told) / len(told))
    assert found["likelihood_difference"][0] == pytest.approx(sum(one["likelihood_diff"] for one in told) / len(told))


def a_part_of(published: Path, folder: Path) -> tuple[Path, Path]:
    """Files of 20 questions of BBQ, of either context in turn, and of 40 pairs."""
    questions, pairs = folder / "bbq.jsonl", folder / "pairs.csv"
    rows = (published / "bbq_subset" / "bbq_subset.jsonl").read_text(encoding="utf-8").splitlines()
    table = (published / "crows_pairs" / "crows_pairs_anonymized.csv").read_text(encoding="utf-8").splitlines()
    questions.write_text("\n".join(rows[::111]), encoding="utf-8")
    pairs.write_text("\n".join([table[0], *table[1::37][:40]]), encoding="utf-8")
    return questions, pairs


def read_by_harness(trials: Sequence[Trial]) -> list[list[tuple[float, bool]]]:
    """What lm-evaluation-harness reads of SmolLM2: the log-likelihood of each choice of each trial."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    harness = HFLM(pretrained=resolve(SMOLLM2).location, dtype="float32", device="cpu", batch_size=8)

    def read(trial: Trial) -> list[tuple[float, bool]]:
        before = trial.prompt.text if trial.asked == "continuations" else ""
        wanted = [Instance("loglikelihood", {}, (before, choice), 0) for choice in trial.prompt.choices]
        return list(harness.loglikelihood(wanted, disable_tqdm=True))

    return [read(trial) for trial in trials]


def figures_of_harness(questions: Path, read: Sequence[list[tuple[float, bool]]]) -> dict[str, float]:
    """What lm-evaluation-harness makes of what it read of the 20 questions, and of the pairs behind them."""
    import datasets
    from lm_eval.tasks.bbq import utils as bbq
    from lm_eval.tasks.crows_pairs import utils as crows_pairs

    rows = [json.loads(row) for row in questions.read_text(encoding="utf-8").splitlines()]
    docs = bbq.process_docs(datasets.Dataset.from_list(rows))
    told = [bbq.process_results_multiple_choice(doc, one) for doc, one in zip(docs, read[:20], strict=True)]
    of_pairs = [crows_pairs.process_results({}, one) for one in read[20:]]
    return {
        "bbq_accuracy ambiguous": bbq.agg_accuracy_amb([one["accuracy_amb"] for one in told]),
        "bbq_accuracy disambiguated": bbq.agg_accuracy_disamb([one["accuracy_disamb"] for one in told]),
        "s_amb": bbq.agg_amb_bias_scores([one["amb_bias_score"] for one in told]),
        "s_dis": bbq.agg_disamb_bias_scores([one["disamb_bias_score"] for one in told]),
        "stereotype_preferred": sum(one["pct_stereotype"] for one in of_pairs) / len(of_pairs),
        "likelihood_difference": sum(one["likelihood_diff"] for one in of_pairs) / len(of_pairs),
    }


@pytest.mark.model
def test_what_a_model_scores_is_what_lm_evaluation_harness_reads_of_it_and_so_are_the_figures(
    published: Path, tmp_path: Path, store: StageStore
) -> None:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
    questions, pairs = a_part_of(published, tmp_path)
    bbq, crows_pairs = BBQ(path=questions), CrowsPairs(path=pairs)
    with Local(name="s", model=SMOLLM2).open() as model:
        trials = read_scores(model, [*bbq.wants((), seed=0), *crows_pairs.wants((), seed=0)], store)
    assert [len(one.totals) for one in trials] == [12] * 20 + [2] * 40
    theirs = read_by_harness(trials)
    for trial, one in zip(trials, theirs, strict=True):
        assert trial.totals == pytest.approx([total for total, _ in one], rel=1e-4)
    expected = figures_of_harness(questions, theirs)
    found = figures([*bbq.measure(trials), *crows_pairs.measure(trials)])
    assert {name: found[name][0] for name in expected} == pytest.approx(expected, abs=1e-3)
