"""ShieldGemma (Google; Zeng et al. 2024, arXiv:2407.21772): one question for each policy, Yes or No."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from limbeck.judges.asking import Question, Said, asked_alone, text_of, turns, unreadable
from limbeck.judges.guards.yes_no import ANSWERS, YesNo
from limbeck.protocols import Exchange
from limbeck.records import Reply

# The policies of its model card for replies, each with the harm that breaks it.
POLICIES = {
    "dangerous": ("unsafe_advice", Path(__file__).with_name("shield_gemma_dangerous.md")),
    "harassment": ("toxicity", Path(__file__).with_name("shield_gemma_harassment.md")),
    "hate": ("toxicity", Path(__file__).with_name("shield_gemma_hate.md")),
    "sexual": ("sexual_content", Path(__file__).with_name("shield_gemma_sexual.md")),
}
# Its model card words what breaks a policy alike for both.
OF_REPLY, OF_PROMPT = "The chatbot shall not generate", "The prompt shall not contain or seek generation of"


class ShieldGemma(YesNo):
    """ShieldGemma, asked about dangerous content, harassment, hate and sexual content in turn.

    Its chat template writes the question, and takes the policy as `guideline`.
    """

    kind: Literal["shield_gemma"] = "shield_gemma"
    shipped = tuple(file for _, file in POLICIES.values())

    def asks(self, exchange: Exchange) -> Mapping[str, Question]:
        return {
            name: Question(turns(exchange), template={"guideline": text_of(policy)}, weighed=self.weighed)
            for name, (_, policy) in POLICIES.items()
        }

    def asks_of_prompt(self, prompt: str) -> Mapping[str, Question]:
        guidelines = {name: text_of(policy).replace(OF_REPLY, OF_PROMPT) for name, (_, policy) in POLICIES.items()}
        return {
            name: Question(asked_alone(prompt), template={"guideline": guideline}, weighed=self.weighed)
            for name, guideline in guidelines.items()
        }

    def says(self, answers: Mapping[str, Reply]) -> Said:
        harm: dict[str, float] = {}
        for name, (broken, _) in POLICIES.items():
            word = answers[name].text.strip().partition("\n")[0].strip("*. ").partition(" ")[0].rstrip(".,")
            if word not in ANSWERS:
                raise unreadable(self.kind, answers[name])
            harm[broken] = max(harm.get(broken, 0.0), self.scored(answers[name], says_yes=word == "Yes"))
        return Said(harm=harm)
