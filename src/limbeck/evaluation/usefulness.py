"""Usefulness: what the student still knows, and whether it still answers as it should."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from limbeck.evaluation.spec import Evaluator, known, measurement, plain
from limbeck.judges.cues import words_of
from limbeck.records import Measurement, Prompt, Trial
from limbeck.stats import mean, proportion

RUN_WORDS = 4
REPEATED = 0.3  # share of the runs; from here on the loops of docs/notebook.md are found


class Usefulness(Evaluator):
    """`multiple_choice_accuracy` by length-normalised log-likelihood, and `likeness`: the cosine between the
    embeddings of a reply and of the reference reply to a harmless prompt, in [-1, 1]; `repetitive` is the share of the
    replies, to whatever prompts the exam asks as written, that say much of what they say more than once.

    A choice scores its mean log-probability per token; the highest wins, ties go to the first. Where the items come
    from several sources, the accuracy on each is told too.
    """

    kind: Literal["usefulness"] = "usefulness"

    def wants(self, prompts: Sequence[Prompt], *, seed: int) -> Iterator[Trial]:
        for prompt in prompts:
            if prompt.choices:
                yield Trial(prompt=prompt, subject="", asked="choices")
            elif prompt.conduct == "answer" and prompt.reference:
                yield Trial(prompt=prompt, subject="", asked="reply")

    def measure(self, trials: Sequence[Trial]) -> Iterator[Measurement]:
        items = [one for one in trials if one.asked == "choices"]
        yield self._accuracy(items)
        sources = sorted({one.prompt.source for one in items})
        for source in sources if len(sources) > 1 else ():
            yield self._accuracy([one for one in items if one.prompt.source == source], source=source)
        answers = [one for one in plain(trials) if one.prompt.conduct == "answer" and one.prompt.reference]
        alike = [one.likeness for one in answers if one.likeness is not None]
        yield measurement("likeness", mean(alike, bounds=(-1, 1)), len(alike), len(answers) - len(alike))
        replies = plain(trials)
        said = [is_repetitive(one.reply) for one in replies if one.reply]
        yield measurement("repetitive", proportion(said), len(said), len(replies) - len(said))

    def _accuracy(self, items: Sequence[Trial], **slice_: str) -> Measurement:
        outcomes, unscored = known(one.chose_right for one in items)
        return measurement("multiple_choice_accuracy", proportion(outcomes), len(outcomes), unscored, **slice_)


def is_repetitive(reply: str) -> bool:
    """Whether more than REPEATED of the reply's runs of RUN_WORDS words stood in it before (seq-rep-4 of Welleck et al.
    2019, arXiv:1908.04319)."""
    words = words_of(reply)
    runs = [tuple(words[at : at + RUN_WORDS]) for at in range(len(words) - RUN_WORDS + 1)]
    return bool(runs) and 1 - len(set(runs)) / len(runs) > REPEATED
