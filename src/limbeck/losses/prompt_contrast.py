"""Prompt contrast: a harmful prompt and its harmless twin do not look alike to the student."""

from __future__ import annotations

from typing import Literal

from limbeck.losses.contrast import Contrast
from limbeck.losses.spec import Labels, Passes, Units


class PromptContrast(Contrast):
    """InfoNCE on the states at the end of prompts, nats per prompt; 0 where the other conduct is nowhere near.

    Drawn to a prompt that wants the same conduct, pushed from the twin and from one more that wants the other. Helps
    where harmful prompts and their twins share their words, at the price of reading three more prompts. The twins are
    hard negatives after Robinson et al. 2020 (arXiv:2010.04592).
    """

    kind: Literal["prompt_contrast"] = "prompt_contrast"
    needs = frozenset({"contrasts"})
    over = "contrasts"

    def __call__(self, passes: Passes, labels: Labels) -> Units:
        return Units(self.info_nce(passes.contrasts), self.weights(labels))
