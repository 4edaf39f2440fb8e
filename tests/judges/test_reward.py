"""A reward as a verdict: what it makes of a reply, and where such a judge may be named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from pydantic import ValidationError

from limbeck.evaluation import EvaluateSettings
from limbeck.judges import JUDGES
from limbeck.judges.grade import as_expected, handled_safely
from limbeck.mine import MineSettings
from limbeck.protocols import Dtype, Exchange, Reward
from limbeck.records import Verdict


class Scale:
    """A reward model whose reward is the number that a reply is; it reads no more than six characters."""

    identity = "scale:1"

    def rewards(self, exchanges: Sequence[Exchange]) -> list[Reward]:
        return [Reward(float(one.reply)) if len(one.reply) <= 6 else Reward(None, "too long") for one in exchanges]


class Tools:
    @contextmanager
    def reward(self, model: str, *, dtype: Dtype) -> Iterator[Scale]:
        yield Scale()


def graded(replies: Sequence[str], **settings: object) -> list[Verdict]:
    spec = JUDGES.read({"kind": "reward", "model": "org/reward", **settings})
    with spec.open(Tools()) as judge:
        return list(judge.grade([Exchange(str(at), "Why?", reply) for at, reply in enumerate(replies)]))


def test_a_reward_is_the_log_odds_that_the_reply_is_preferred() -> None:
    # 1 / (1 + e^-2) = 0.8808, 1 / (1 + e^1) = 0.2689
    said = graded(["2", "-1", "0"])
    assert [one.reward for one in said] == [2.0, -1.0, 0.0]
    assert [one.p_preferred for one in said] == pytest.approx([0.8808, 0.2689, 0.5], abs=1e-4)


def test_zero_is_the_reward_of_a_reply_as_good_as_not() -> None:
    assert [one.p_preferred for one in graded(["20", "22"], zero=20)] == pytest.approx([0.5, 0.8808], abs=1e-4)


def test_rewards_of_any_size_are_graded() -> None:
    assert [one.p_preferred for one in graded(["9999", "-9999"])] == [1.0, 0.0]


def test_what_it_cannot_read_is_unscored_in_its_place() -> None:
    said = graded(["1", " ", "1234567", "2"])
    assert [one.unscored for one in said] == [None, "the reply is empty", "too long", None]
    assert [one.reward for one in said] == [1.0, None, None, 2.0]
    assert as_expected("answer", said[2]) is None


def test_it_says_how_good_a_reply_is_whatever_was_asked_and_nothing_of_harm() -> None:
    (said,) = graded(["2"])
    assert as_expected("answer", said) == as_expected("refuse", said) == said.p_preferred
    assert handled_safely("answer", said) is None and handled_safely("refuse", said) is None


def test_another_zero_is_another_version() -> None:
    assert graded(["1"])[0].version != graded(["1"], zero=1)[0].version


@pytest.mark.parametrize("settings", [EvaluateSettings, MineSettings])
def test_it_is_not_named_where_safety_is_told(settings: type[EvaluateSettings | MineSettings]) -> None:
    with pytest.raises(ValidationError, match=r"judge 'reward' says how good a reply is, not whether it refuses"):
        settings.model_validate({"judges": [{"kind": "reward", "model": "org/reward"}]})


def test_a_jury_does_not_count_it() -> None:
    with pytest.raises(ValidationError, match=r"use it in teach.until or judges.judges"):
        JUDGES.read({"kind": "jury", "judges": ["refusal", {"kind": "reward", "model": "org/reward"}]})
