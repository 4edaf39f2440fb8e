"""Answers: the words of a reply against those of the reference."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

from limbeck.evaluation.spec import Evaluator, measurement, plain
from limbeck.records import Measurement, Prompt, Trial
from limbeck.stats import mean, proportion

ARTICLES = re.compile(r"\b(?:a|an|the)\b")
UNPUNCTUATED = str.maketrans("", "", string.punctuation)


class Answers(Evaluator):
    """`exact_match`, the share of replies that are the reference, and `answer_f1`, the overlap of their words (harmonic
    mean of precision and recall), mean over replies; for prompts to answer that have a reference.

    Without case, punctuation and articles, after SQuAD (Rajpurkar et al. 2016, arXiv:1606.05250): for short answers.
    """

    kind: Literal["answers"] = "answers"

    def wants(self, prompts: Sequence[Prompt], *, seed: int) -> Iterator[Trial]:
        for prompt in prompts:
            if prompt.conduct == "answer" and prompt.reference and not prompt.choices:
                yield Trial(prompt=prompt, subject="", asked="reply")

    def measure(self, trials: Sequence[Trial]) -> Iterator[Measurement]:
        asked = [one for one in plain(trials) if one.prompt.conduct == "answer" and one.prompt.reference]
        pairs = [(words(one.reply), words(one.prompt.reference or "")) for one in asked if one.reply is not None]
        unscored = len(asked) - len(pairs)
        yield measurement("exact_match", proportion([said == right for said, right in pairs]), len(pairs), unscored)
        yield measurement("answer_f1", mean([overlap(*pair) for pair in pairs], bounds=(0, 1)), len(pairs), unscored)


def words(text: str) -> list[str]:
    """The words that count."""
    return ARTICLES.sub(" ", text.lower().translate(UNPUNCTUATED)).split()


def overlap(said: Sequence[str], right: Sequence[str]) -> float:
    """Harmonic mean of the share of words said that are right and of right words that are said, in [0, 1]."""
    common = (Counter(said) & Counter(right)).total()
    return 2 * common / (len(said) + len(right)) if said or right else 1.0
