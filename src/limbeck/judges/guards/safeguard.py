"""gpt-oss-safeguard (OpenAI): a policy of one's own in the system turn, JSON back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from limbeck.judges.asking import HARMS_FILE, Asking, Question, Said, filled, harms
from limbeck.judges.rubric import read_rubric
from limbeck.protocols import Exchange
from limbeck.records import Message, Reply

POLICY = Path(__file__).with_name("safeguard.md")


class Safeguard(Asking):
    """gpt-oss-safeguard, which reasons over a policy: the one that ships, or a file of one's own."""

    kind: Literal["safeguard"] = "safeguard"
    policy: Path = POLICY
    max_tokens: int = 1024  # it reasons first
    shipped = (POLICY, HARMS_FILE)

    @property
    def tells_refusal(self) -> bool:
        """Not by the policy that ships; what another asks for is its own."""
        return self.policy != POLICY

    def asks(self, exchange: Exchange) -> Mapping[str, Question]:
        policy = Message(role="system", content=filled(self.policy, harms=harms()))
        shown = f"Prompt:\n{exchange.prompt}\n\nReply:\n{exchange.reply}"
        return {"reply": Question((policy, Message(role="user", content=shown)))}

    def says(self, answers: Mapping[str, Reply]) -> Said:
        return read_rubric(self.kind, answers["reply"])
