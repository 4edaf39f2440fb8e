"""Guards that answer Yes or No, and how sure they are of it."""

from __future__ import annotations

from typing import ClassVar, Literal

from limbeck.judges.asking import PromptGuard, Unreadable
from limbeck.records import Reply

ANSWERS = ("Yes", "No")


class YesNo(PromptGuard):
    """Settings of a guard that answers Yes or No: scored by the `probability` of Yes beside No where it is said, as
    model cards have it, or by the `answer`, 1 or 0, for a server that tells no log-probs."""

    score: Literal["probability", "answer"] = "probability"
    tells_refusal: ClassVar[bool] = False

    @property
    def weighed(self) -> tuple[str, ...] | None:
        """The answers whose chances the model is to tell."""
        return ANSWERS if self.score == "probability" else None

    def scored(self, reply: Reply, *, says_yes: bool) -> float:
        """How much a reply that says Yes or No says Yes, in [0, 1]. Raises Unreadable where its chances are wanted and
        not told."""
        if self.score == "answer":
            return float(says_yes)
        if reply.chances is None:
            raise Unreadable(
                f"the model of {self.kind} tells no log-probs of Yes and No; set score: answer to count its answer as "
                "1 or 0"
            )
        yes, no = (reply.chances[answer] for answer in ANSWERS)
        return yes / (yes + no)
