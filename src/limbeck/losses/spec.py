"""What a loss is given, and what it gives back.

A loss sees only tensors, and none reduces: it returns a value and a weight per unit, and one function in the training
step divides by the weight of the whole optimizer step. Units are taught tokens (N), tokens of rejected replies (R),
prompts with a known risk (B), pairs of a reply and a rejected one (L) or prompts beside others (C). Further axes: O
tokens of refusal openings, E openings, D places, K kept ids, V vocabulary, H hidden, S states, M others.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import accumulate
from types import MappingProxyType
from typing import ClassVar, Literal, NamedTuple, TypeAlias

import torch
from pydantic import Field
from torch import Tensor

from limbeck.losses.noise import Noise
from limbeck.losses.places import Places
from limbeck.protocols import Spans, TopK
from limbeck.spec import Kind

Rows: TypeAlias = Tensor | slice
NONE = slice(0)
Needs = Literal["reply", "distribution", "spans", "rejected", "risk", "base", "contrasts", "reply_contrasts", "states"]
# A layer of the student, and one of the teacher.
LayerPair: TypeAlias = tuple[int, int]
Over = Literal["taught", "rejected", "prompts", "pairs", "contrasts", "reply_contrasts", "states"]


# What a lesson must have for any unit of a kind.
IMPLIED: Mapping[Over, frozenset[Needs]] = MappingProxyType({
    "taught": frozenset({"reply"}),
    "rejected": frozenset({"rejected"}),
    "prompts": frozenset({"risk"}),
    "pairs": frozenset({"reply", "rejected", "base"}),
    "contrasts": frozenset({"contrasts"}),
    "reply_contrasts": frozenset({"reply", "reply_contrasts"}),
    "states": frozenset({"reply", "states"}),
})  # fmt: skip


class Counts(NamedTuple):
    """How much each unit counts.

    `weight` stands above and below the line of a mean, `pull` (1 + the multiplier of a constraint) above it alone: in
    both, a common growth would cancel. `harmful` tells units of lessons on harmful prompts from the others.
    """

    weight: Tensor
    pull: Tensor
    harmful: Tensor

    def only(self, rows: Rows) -> Counts:
        """The shares of some units alone."""
        return Counts(*(column[rows] for column in self))


class Labels(NamedTuple):
    """All that is known before the model runs: what is to be learnt, and how much each unit counts."""

    taught: Counts
    rejected: Counts
    prompts: Counts
    pairs: Counts
    contrasts: Counts
    reply_contrasts: Counts
    states: Counts
    tokens_N: Tensor
    position_N: Tensor  # of the token in its answer, from 0; below 0 in the reasoning before that
    known_N: Tensor  # True where the teacher's distribution is known
    spanned_N: Tensor  # True where a span begins of which it is known across tokenizers
    rejected_R: Tensor
    risk_B: Tensor

    def of(self, over: Over) -> Counts:
        """How much each unit of a kind counts."""
        found: Counts = getattr(self, over)
        return found

    def only(
        self,
        *,
        taught: Rows = NONE,
        rejected: Rows = NONE,
        prompts: Rows = NONE,
        pairs: Rows = NONE,
        beside: Rows = NONE,
        states: Rows = NONE,
    ) -> Labels:
        """The labels of some units alone; `beside` are contrasts of either kind."""
        return Labels(
            taught=self.taught.only(taught),
            rejected=self.rejected.only(rejected),
            prompts=self.prompts.only(prompts),
            pairs=self.pairs.only(pairs),
            contrasts=self.contrasts.only(beside),
            reply_contrasts=self.reply_contrasts.only(beside),
            states=self.states.only(states),
            tokens_N=self.tokens_N[taught],
            position_N=self.position_N[taught],
            known_N=self.known_N[taught],
            spanned_N=self.spanned_N[taught],
            rejected_R=self.rejected_R[rejected],
            risk_B=self.risk_B[prompts],
        )


class Refusing(NamedTuple):
    """Log-probability of the first opening, of the words that go on from it as it is taught, and of beginning with none
    of the openings, nats.

    Where the risk is 0 the words are not read, and `rest_B` means nothing.
    """

    first_B: Tensor
    rest_B: Tensor
    answers_B: Tensor


class Openings(NamedTuple):
    """The places where tokens of refusal openings would come, for B decisions: one a prompt, at the start of the reply,
    and perhaps one in its midst.

    All prompts share the openings: `token_O` are their tokens, one opening after the other, `sizes` their lengths,
    `at_BO` the place of each token. What comes after the last opening goes on from the first, and is anywhere where the
    risk is 0.
    """

    places: Places
    at_BO: Tensor
    token_O: Tensor
    sizes: tuple[int, ...]

    def refusing(self, temperature: float, *, openings: int) -> Refusing:
        """How likely a refusal is when the model is decoded at that temperature, by the first so many openings.

        An answer leaves the openings at some token: its probability is summed over where it does, for 1 minus that of
        the openings loses all digits once nearly every reply is a refusal.
        """
        ends = list(accumulate(self.sizes))[:openings]
        columns = [range(end - size, end) for end, size in zip(ends, self.sizes, strict=False)]
        token_O = self.token_O.tolist()
        first: list[Tensor] = []

        def leaving(members: Sequence[range], depth: int) -> Tensor | None:
            """Log-probability (B,) of going on from so many tokens of these openings to the end of none."""
            if any(len(one) == depth for one in members):
                return None
            tokens = sorted({token_O[one[depth]] for one in members})
            ids_K = torch.tensor(tokens, device=self.at_BO.device)
            kept = self.places.among(ids_K, at_P=self.at_BO[:, members[0][depth]], temperature=temperature)
            ways = [kept.rest_N]
            for k, token in enumerate(tokens):
                some = [one for one in members if token_O[one[depth]] == token]
                if columns[0] in some:
                    first.append(kept.logprobs_NK[:, k])
                if (later_B := leaving(some, depth + 1)) is not None:
                    ways.append(kept.logprobs_NK[:, k] + later_B)
            return torch.stack(ways).logsumexp(0)

        answers_B = leaving(columns, 0)
        rest = slice(sum(self.sizes), None)
        token_BW, at_BW = self.token_O.expand_as(self.at_BO)[:, rest], self.at_BO[:, rest]
        said_P = self.places.said(token_BW.flatten(), at_P=at_BW.flatten(), temperature=temperature)
        assert answers_B is not None
        return Refusing(torch.stack(first).sum(0), said_P.view_as(at_BW).sum(1), answers_B)


class Refusal(NamedTuple):
    """The words of a refusal as they are taught, how many of the refusal openings are read, and within how many tokens
    of an answer they are read once more, 0 for not at all; with `recover` of one to avoid, too."""

    words: str
    openings: int
    within: int = 0
    recover: bool = False


class Pairs(NamedTuple):
    """Log-probability of a whole reply and of a rejected one to the same prompt, nats: as the student has it, and as
    the model did before any training."""

    chosen_L: Tensor
    rejected_L: Tensor
    base_chosen_L: Tensor
    base_rejected_L: Tensor


class Contrasts(NamedTuple):
    """States of the student, (S, H) by layer, and which of them to compare.

    `anchor_C` and `others_CM` point into S; the first of the others is alike, the rest are not; where `valid_CM` is
    False there is none.
    """

    states: Mapping[int, Tensor]
    anchor_C: Tensor
    others_CM: Tensor
    valid_CM: Tensor


class Aligned(NamedTuple):
    """States (N, H) of the same taught tokens: the student's, mapped to the teacher's width, and the teacher's."""

    student_NH: Tensor
    teacher_NH: Tensor


class Passes(NamedTuple):
    """What the models said. Parts that no loss needs are empty."""

    student: Places  # where taught tokens come
    rejected: Places  # where rejected ones do
    openings: Openings
    teacher: TopK | Tensor  # top ids, or all log-probabilities (N, V); rows where `known_N` is False are not read
    spans: Spans  # what a teacher with another tokenizer says; an id in every slot, and every span whole
    base: Places  # the untrained model, where taught tokens come
    noisy: Mapping[Noise, Places]  # the student under noise, where taught tokens come
    pairs: Pairs
    contrasts: Contrasts
    reply_contrasts: Contrasts
    states: Mapping[LayerPair, Aligned]


class Units(NamedTuple):
    """A value in nats and a weight for each unit; the weights do not depend on the model."""

    value: Tensor
    weight: Tensor


class Loss(Kind):
    """Settings of a loss; `weight` is its share in the objective, `over` what its units are."""

    weight: float = Field(default=1.0, ge=0)
    needs: ClassVar[frozenset[Needs]] = frozenset()
    over: ClassVar[Over]

    def weights(self, labels: Labels) -> Tensor:
        """The weight of each unit, known before the model runs."""
        return labels.of(self.over).weight

    @property
    def wants(self) -> frozenset[Needs]:
        """What it needs, and what its units are made of."""
        return self.needs | IMPLIED[self.over]

    @property
    def takes_drawn(self) -> bool:
        """Whether its gradient is linear in the teacher's probabilities: then drawn ids, whose weights are right in the
        mean, give a gradient that is right in the mean."""
        return False

    @property
    def student_layers(self) -> tuple[int, ...]:
        """The layers of the student whose states it looks at."""
        return ()

    @property
    def layer_pairs(self) -> tuple[LayerPair, ...]:
        """The layers of student and teacher whose states it holds against each other."""
        return ()

    @property
    def under(self) -> Noise | None:
        """The noise under which it hears the student once more."""
        return None

    @property
    def refusal(self) -> Refusal | None:
        """What it takes for a refusal; None where it looks at none."""
        return None

    @abstractmethod
    def __call__(self, passes: Passes, labels: Labels) -> Units:
        """The value of each unit, nats where the loss says no other unit."""


def log1mexp(log_p: Tensor) -> Tensor:
    """log(1 - exp(log_p)) for log_p <= 0, exact at both ends (Mächler 2012); -inf-safe at log_p = 0."""
    log_p = log_p.clamp(max=-torch.finfo(log_p.dtype).eps)
    return torch.where(log_p > -0.6931, torch.log(-torch.expm1(log_p)), torch.log1p(-torch.exp(log_p)))
