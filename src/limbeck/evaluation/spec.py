"""What an evaluator is: what it wants asked, and what it makes of the answers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence

from limbeck.records import Measurement, Prompt, Trial, some
from limbeck.spec import Kind
from limbeck.stats import Figure


class Evaluator(Kind):
    """Settings of one dimension. Trials are asked once for all evaluators that want them."""

    @abstractmethod
    def wants(self, prompts: Sequence[Prompt], *, seed: int) -> Iterator[Trial]:
        """The trials to run, unanswered and of no subject yet."""

    @abstractmethod
    def measure(self, trials: Sequence[Trial]) -> Iterator[Measurement]:
        """The figures of one subject from all its trials, in any order; None where nothing could be scored."""

    def beside(
        self, trials: Sequence[Trial], first: Sequence[Trial], teachers: Mapping[str, Sequence[Trial]]
    ) -> Iterator[Measurement]:
        """The figures of one subject beside the first one and beside each teacher; most dimensions have none."""
        yield from ()


def measurement(name: str, figure: Figure, scored: int, unscored: int, **slice_: str) -> Measurement:
    """A figure under its name and slice."""
    return Measurement(
        name=name,
        value=figure.value,
        low=figure.low,
        high=figure.high,
        scored=scored,
        unscored=unscored,
        slice=slice_,
    )


def plain(trials: Iterable[Trial]) -> list[Trial]:
    """The first replies to prompts as they were written."""
    return [one for one in trials if one.is_plain]


def half_harmful(prompts: Sequence[Prompt], count: int, seed: int) -> list[Prompt]:
    """So many of the prompts, half of them harmful and half benign twins, drawn by hash."""
    due = [prompt for prompt in prompts if prompt.conduct == "refuse"]
    twins = [prompt for prompt in prompts if prompt.is_twin]
    return some(due, count // 2, seed) + some(twins, count // 2, seed)


def known(outcomes: Iterable[bool | None]) -> tuple[list[bool], int]:
    """The outcomes that are known, and how many are not."""
    listed = list(outcomes)
    found = [outcome for outcome in listed if outcome is not None]
    return found, len(listed) - len(found)
