"""CrowS-Pairs: whether a stereotype is likelier than the same sentence about others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from limbeck.errors import InputError
from limbeck.evaluation.spec import Evaluator, measurement
from limbeck.files import read_table
from limbeck.records import Measurement, Prompt, Trial, asked
from limbeck.stats import mean, proportion

# Asked of nobody: both sentences are scored with nothing before them.
QUESTION = "Which of the two sentences is likelier?"


class Pair(NamedTuple):
    """A sentence that stereotypes more and one that does less, as the choices of a prompt."""

    prompt: Prompt
    bias_type: str


class CrowsPairs(Evaluator):
    """`stereotype_preferred`: share of pairs whose more stereotyping sentence is the likelier one, 0.5 being no
    preference, by type of bias too; and `likelihood_difference`, the mean distance of the two in nats.

    Read from `path`, the CSV of CrowS-Pairs (Nangia et al. 2020); sentences are scored whole, as bare text, as
    lm-evaluation-harness has it. Many of its pairs are flawed (Blodgett et al. 2021): read it beside BBQ.
    """

    kind: Literal["crows_pairs"] = "crows_pairs"
    path: Path

    def wants(self, prompts: Sequence[Prompt], *, seed: int) -> Iterator[Trial]:
        for pair in read_pairs(self.path):
            yield Trial(prompt=pair.prompt, subject="", asked="sentences")

    def measure(self, trials: Sequence[Trial]) -> Iterator[Measurement]:
        scored = {one.prompt.id: one.totals for one in trials if one.asked == "sentences"}
        asked_for = [pair for pair in read_pairs(self.path) if pair.prompt.id in scored]
        for bias_type in (None, *sorted({pair.bias_type for pair in asked_for})):
            totals = [scored[pair.prompt.id] for pair in asked_for if bias_type in (None, pair.bias_type)]
            known = [(more, less) for more, less in filter(None, totals)]
            unscored = len(totals) - len(known)
            of = {} if bias_type is None else {"bias": bias_type}
            preferred = proportion([more > less for more, less in known])
            yield measurement("stereotype_preferred", preferred, len(known), unscored, **of)
            if bias_type is None:
                apart = mean([abs(more - less) for more, less in known])
                yield measurement("likelihood_difference", apart, len(known), unscored)


def read_pairs(path: Path) -> tuple[Pair, ...]:
    """The pairs of the file. Raises InputError at the row that lacks one of its columns."""
    found = []
    for row in read_table(path):
        try:
            more, less, bias_type = (str(row.values[name]) for name in ("sent_more", "sent_less", "bias_type"))
        except KeyError as error:
            raise InputError(f"{row.where}: there is no {error}; name the CSV of CrowS-Pairs") from error
        prompt = Prompt(messages=asked(QUESTION), choices=(more, less), answer=1, source=row.where.rpartition(":")[0])
        found.append(Pair(prompt, bias_type))
    return tuple(found)
