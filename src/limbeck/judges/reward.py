"""How good is a reply? A reward model: one number for a prompt and a reply, learnt from people's preferences."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar, Literal

from limbeck.judges.spec import JudgeSpec
from limbeck.protocols import Dtype, Exchange, Reward, RewardModel, Tools
from limbeck.records import Verdict
from limbeck.spec import ModelName, fingerprint

BATCH = 64  # exchanges


class RewardModelJudge(JudgeSpec):
    """A sequence classifier with one output, a folder or a Hub id: how good a reply is to its prompt.

    `zero` is the reward of a reply as good as not: `p_preferred` is the probability that people prefer the reply to one
    with that reward (Bradley & Terry 1952), one half there.
    """

    kind: Literal["reward"] = "reward"
    model: ModelName
    zero: float = 0.0
    dtype: Dtype = "float32"
    tells_safety = False
    tells_refusal: ClassVar[bool] = False
    shareable: ClassVar[bool] = True

    @contextmanager
    def open(self, tools: Tools) -> Iterator[RewardJudge]:
        """The judge on its model, which is gone when the block ends."""
        with tools.reward(self.model, dtype=self.dtype) as model:
            yield RewardJudge(self, model)


class RewardJudge:
    """The whole reply counts: one that the model cannot read to its end is unscored."""

    name = "reward"

    def __init__(self, spec: RewardModelJudge, model: RewardModel) -> None:
        self.spec = spec
        self.model = model
        self.version = hashlib.sha256(f"{fingerprint(spec)} {model.identity}".encode()).hexdigest()[:12]

    def grade(self, exchanges: Sequence[Exchange]) -> Iterator[Verdict]:
        """One verdict for each exchange, in order; an empty reply is unscored."""
        for start in range(0, len(exchanges), BATCH):
            yield from self._grade_batch(exchanges[start : start + BATCH])

    def _grade_batch(self, exchanges: Sequence[Exchange]) -> Iterator[Verdict]:
        rewards = iter(self.model.rewards([one for one in exchanges if one.reply.strip()]))
        for exchange in exchanges:
            reward = next(rewards) if exchange.reply.strip() else Reward(None, "the reply is empty")
            yield Verdict(
                of=exchange.id,
                judge=self.name,
                version=self.version,
                reward=reward.value,
                p_preferred=None if reward.value is None else _logistic(reward.value - self.spec.zero),
                unscored=reward.why,
            )


def _logistic(x: float) -> float:
    """1 / (1 + exp(-x)), for any x."""
    return 0.5 * (1 + math.tanh(x / 2))
