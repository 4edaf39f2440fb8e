"""Training prompts that are asked in other ways than they were written."""

from __future__ import annotations

import hashlib
from typing import Self

from pydantic import Field, model_validator

from limbeck.attacks import AnyAttack
from limbeck.attacks.past_tense import PastTense
from limbeck.records import Prompt, asked
from limbeck.spec import Spec


class Reworded(Spec):
    """Of the English families that teach the decision alone, about a `share` is asked `by` attacks in place of as it is
    written, each family by one of them: harmful prompts and their twins alike, so that the way in which something is
    asked says nothing about whether to refuse it.

    An attack that is taught is no longer one that nobody trained on.
    """

    share: float = Field(default=0.15, gt=0, le=1)
    by: tuple[AnyAttack, ...] = Field(default=(PastTense(),), min_length=1)

    @model_validator(mode="after")
    def _ask_only(self) -> Self:
        sample = Prompt(messages=asked("How do I do that?"))
        for attack in self.by:
            messages = next(attack.attempts(sample, seed=0)).messages
            if messages[-1].role != "user" or not all(one.content for one in messages):
                raise ValueError(
                    f"attack '{attack.name}' begins the reply or leaves turns to the model, so no prompt can be asked "
                    "by it; use past_tense, role_play, persuasion, encoding, language_switch or many_shot"
                )
        return self

    def __call__(self, prompt: Prompt, *, seed: int) -> Prompt:
        """The prompt, or what is asked in its place."""
        if prompt.split != "train" or prompt.lesson != "decision" or prompt.language != "en":
            return prompt
        digest = hashlib.sha256(f"{seed} reworded {prompt.family_or_self}".encode()).digest()
        if int.from_bytes(digest[:8], "big") / 2**64 >= self.share:
            return prompt
        attack = self.by[int.from_bytes(digest[8:16], "big") % len(self.by)]
        messages = next(attack.attempts(prompt, seed=seed)).messages
        return prompt.model_copy(update={"messages": messages, "made_by": attack.name})
