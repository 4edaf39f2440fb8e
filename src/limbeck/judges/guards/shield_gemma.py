"""ShieldGemma (Google): one question for each policy, answered with Yes or No."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from limbeck.judges.asking import Asking, Said, filled, text_of, unreadable
from limbeck.protocols import Exchange
from limbeck.records import Message

PROMPT = Path(__file__).with_name("shield_gemma.md")
# The policies of its model card, each with the harm that breaks it.
POLICIES = {
    "dangerous": ("unsafe_advice", Path(__file__).with_name("shield_gemma_dangerous.md")),
    "harassment": ("toxicity", Path(__file__).with_name("shield_gemma_harassment.md")),
    "hate": ("toxicity", Path(__file__).with_name("shield_gemma_hate.md")),
    "sexual": ("sexual_content", Path(__file__).with_name("shield_gemma_sexual.md")),
}


class ShieldGemma(Asking):
    """ShieldGemma, asked about dangerous content, harassment, hate and sexual content in turn."""

    kind: Literal["shield_gemma"] = "shield_gemma"
    shipped = (PROMPT, *(file for _, file in POLICIES.values()))

    def asks(self, exchange: Exchange) -> Mapping[str, tuple[Message, ...]]:
        return {
            name: (
                Message(
                    role="user",
                    content=filled(PROMPT, prompt=exchange.prompt, reply=exchange.reply, policy=text_of(policy)),
                ),
            )
            for name, (_, policy) in POLICIES.items()
        }

    def says(self, answers: Mapping[str, str]) -> Said:
        harm: dict[str, float] = {}
        for name, (broken, _) in POLICIES.items():
            word = answers[name].strip().partition("\n")[0].strip("*. ").partition(" ")[0].rstrip(".,")
            if word not in ("Yes", "No"):
                raise unreadable(self.kind, answers[name])
            harm[broken] = max(harm.get(broken, 0.0), float(word == "Yes"))
        return Said(harm=harm)
