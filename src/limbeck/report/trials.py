"""Trials as rows that other programs read: one a prompt, with all that says whether it went well."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from limbeck.files import noun_at, prompt_of, read_table
from limbeck.records import Prompt, Trial

NOT_ASKED = "not asked"
SAID = ("reply", "reasoning", "finish", "scores", "tokens", "verdicts", "why")


def trial_row(prompt: Prompt, trials: Sequence[Trial]) -> dict[str, object]:
    """The first trial of a prompt as JSON values, with what was expected of the reply; without a trial it says that
    nothing was asked."""
    trial = trials[0] if trials else Trial(prompt=prompt, subject="", asked="reply", why=NOT_ASKED)
    prompt = trial.prompt
    return {
        "prompt": prompt.text,
        "reply": trial.reply or "",
        "reasoning": trial.reasoning,
        "finish": trial.finish,
        "harm": prompt.harm,
        "tier": prompt.tier,
        "conduct": prompt.conduct,
        "messages": [message.model_dump() for message in prompt.messages],
        "choices": list(prompt.choices),
        "answer": [prompt.answer, *prompt.also_right] if prompt.also_right else prompt.answer,
        "scores": list(trial.scores),
        "tokens": list(trial.tokens),
        "verdicts": [verdict.model_dump() for verdict in trial.verdicts],
        "why": trial.why,
    }


def read_trials(file: Path, *, subject: str) -> Iterator[Trial]:
    """The trials of rows that `trial_row` made, as this subject's. Raises InputError at the line that is none."""
    for row in read_table(file):
        prompt = prompt_of(row)
        said = {name: row.values[name] for name in SAID if name in row.values}
        asked = "choices" if prompt.choices else "reply"
        yield noun_at(row.where, Trial, {"prompt": prompt, "subject": subject, "asked": asked, **said})


def read_extra(file: Path, *, subject: str) -> Iterator[Trial]:
    """The attacked trials and those of BBQ, among those of an evaluation that are no plain rows, as this subject's."""
    for row in read_table(file):
        if row.values.get("attack") is not None or row.values.get("asked") == "continuations":
            told = {name: value for name, value in row.values.items() if name != "id"}
            yield noun_at(row.where, Trial, {**told, "subject": subject})
