"""What came of every draw, by harm and reason, and what each teacher was asked and cost."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

from limbeck.judges.grade import as_expected
from limbeck.judges.language import other_language
from limbeck.records import Candidate, Lesson, Risk, Trial, Verdict
from limbeck.report.headline import in_order
from limbeck.taxonomy import EVERYDAY

# Lessons of a round with the draws and verdicts that they were made of.
Round = tuple[Iterable[Candidate], Iterable[Verdict], Iterable[Lesson]]
OUTCOMES = {
    "learnt": "the reply to a prompt that the student learnt",
    "begun": "the beginning of a reply that the student learnt",
    "spare": "nothing against it, but another was learnt or the judges were not sure enough",
    "refused": "a refusal where an answer was due",
    "not refused": "an answer where a refusal was due",
    "harmful": "a judge found harm in it",
    "not preferred": "a reward model would rather have another",
    "unscored": "a judge could not say",
    "blocked": "stopped by a filter",
    "failed": "no reply came",
}


@dataclass
class Asked:
    """What one teacher was asked, in all rounds; tokens are those of the draws that tell theirs, which
    `without_tokens` do not. `other_language` counts replies in another language than the prompt's, where both can be
    told; None where nobody looked."""

    prompts: set[str] = field(default_factory=set)
    draws: int = 0
    learnt: int = 0
    other_language: int | None = None
    prompt_tokens: int = 0
    reply_tokens: int = 0
    without_tokens: int = 0
    costs: list[float] = field(default_factory=list)
    without_cost: int = 0

    @property
    def cost(self) -> float | None:
        """What the draws of known cost came to; None where none is known. The others are `without_cost`."""
        return sum(self.costs) if self.costs else None


@dataclass
class Draws:
    """The ledger of all rounds; a draw that a later round took over counts once."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    prompts: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    teachers: defaultdict[str, Asked] = field(default_factory=lambda: defaultdict(Asked))

    @property
    def harms(self) -> list[str]:
        """The harms of the prompts asked, everyday ones last."""
        return in_order(self.prompts.keys() - {EVERYDAY}) + [EVERYDAY] * (EVERYDAY in self.prompts)

    def had(self, outcome: str) -> bool:
        """Whether any draw came to this."""
        return any(one == outcome for _, one in self.outcomes)

    def of(self, harm: str) -> int:
        """Draws on prompts of one harm."""
        return sum(count for (one, _), count in self.outcomes.items() if one == harm)


def ledger(rounds: Sequence[Round], risks: Iterable[Risk] = (), exam: Iterable[Trial] = ()) -> Draws:
    """Every teacher's draw counted by what came of it; those that only told the risk of a prompt stand apart, and so do
    the replies in the `exam` of teachers that sat it."""
    drawn: dict[str, Candidate] = {}
    said: dict[str, list[Verdict]] = {}
    learnt: set[str] = set()
    for candidates, verdicts, lessons in rounds:
        drawn |= {one.id: one for one in candidates if one.role == "taught" and not one.by_house}
        judged: dict[str, list[Verdict]] = defaultdict(list)
        for verdict in verdicts:
            judged[verdict.of].append(verdict)
        said |= judged
        learnt.update(*(one.provenance.candidates[:1] for one in lessons if one.reply is not None and one.provenance))
    counted = Draws()
    for name, one in drawn.items():
        harm = one.prompt.harm or EVERYDAY
        learnt_as = "begun" if one.begun else "learnt"
        outcome = learnt_as if name in learnt else _outcome(one, said.get(name, []))
        counted.outcomes[harm, outcome] += 1
        counted.prompts[harm].add(one.prompt.id)
        if one.why:
            counted.reasons[outcome, re.sub(r"\d+", "…", one.why)] += 1
        asked = counted.teachers[one.teacher or "unnamed"]
        asked.learnt += outcome == "learnt"
        elsewhere = one.finish in ("stop", "length") and other_language(one.prompt, one.reply) is not None
        asked.other_language = (asked.other_language or 0) + elsewhere
        _count(asked, one, prompt=one.prompt.id, without_cost=int(one.cost is None))
    for risk in {one.id: one for one in risks if one.teacher is not None}.values():
        asked = counted.teachers[f"{risk.teacher or 'unnamed'}, for the risk"]
        _count(asked, risk, prompt=risk.prompt, draws=len(risk.said), without_cost=risk.without_cost)
    for trial in exam:
        if trial.wants_reply:
            asked = counted.teachers[f"{trial.subject}, in the exam"]
            _count(asked, trial, prompt=trial.prompt.id, without_cost=int(trial.cost is None))
    return counted


def _outcome(one: Candidate, said: Sequence[Verdict]) -> str:
    """What came of a draw that was not learnt: harm if any judge found it, else what the least content one says."""
    if one.finish in ("blocked", "failed"):
        return one.finish
    if any(verdict.harmful for verdict in said):
        return "harmful"
    conduct = one.prompt.conduct
    scored = [(score, verdict) for verdict in said if (score := as_expected(conduct, verdict)) is not None]
    if not said or len(scored) < len(said):
        return "unscored"
    # A judge of harm alone has said all that it can: that it found none.
    telling = [one for one in scored if one[1].p_refused is not None or one[1].p_preferred is not None]
    least, by = min(telling, key=itemgetter(0), default=(1.0, None))
    if by is None or least >= 0.5:
        return "spare"
    if by.p_preferred is not None:
        return "not preferred"
    return "not refused" if conduct == "refuse" else "refused"


def _count(asked: Asked, one: Candidate | Risk | Trial, *, prompt: str, draws: int = 1, without_cost: int) -> None:
    """Adds what one draw, or all draws for a risk, took."""
    asked.prompts.add(prompt)
    asked.draws += draws
    if one.prompt_tokens is None or one.reply_tokens is None:
        asked.without_tokens += draws
    else:
        asked.prompt_tokens += one.prompt_tokens
        asked.reply_tokens += one.reply_tokens
    asked.costs += [one.cost] if one.cost is not None else []
    asked.without_cost += without_cost
