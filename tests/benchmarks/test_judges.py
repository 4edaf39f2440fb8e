"""What the judges are measured on is what the sets mean."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from limbeck.records import Verdict

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_the_last_reply_of_a_chat_is_read_beside_the_turn_that_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    found = importlib.import_module("judges").last("\n\nHuman: One?\n\nAssistant: 1.\n\nHuman: Two?\n\nAssistant: 2.")
    assert (found.prompt, found.reply) == ("Two?", "2.")


def test_a_reply_without_a_score_is_counted_apart_and_scores_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    judges = importlib.import_module("judges")
    silent = Verdict(of="x", judge="j", version="1", unscored="the reply is empty")
    bias, refused = (silent.model_copy(update=said) for said in ({"harm": {"bias": 0.2}}, {"refused": "full"}))
    assert [judges.score_of(one, harm) for one in (silent, bias) for harm in (None, "bias")] == [None, None, 0.2, 0.2]
    assert judges.ranked([(0.9, 0.1), (None, 0.1), (0.9, None)])[1:] == (1, 2)
    assert judges.told_apart([0.9, None], [0.1])[1:] == (2, 1)
    assert judges.agreed([silent, refused], [False, True])[1:] == (1, 1)
    assert judges.told_apart([None], [0.1]).shown == "not measured"
