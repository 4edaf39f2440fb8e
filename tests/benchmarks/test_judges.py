"""What the judges are measured on is what the sets mean."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_the_last_reply_of_a_chat_is_read_beside_the_turn_that_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    found = importlib.import_module("judges").last("\n\nHuman: One?\n\nAssistant: 1.\n\nHuman: Two?\n\nAssistant: 2.")
    assert (found.prompt, found.reply) == ("Two?", "2.")
