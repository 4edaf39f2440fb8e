"""How well finished runs tell harmful prompts from twins under attacks: python benchmarks/attacked.py RUN...

The exam's harmful prompts and twins of all runs together, asked in ways that no recipe of ours trains on, of the
student and of the plain recipe, which the run must have as a baseline. By the threshold on its decision, as
`boundary.py` has it for the prompts as they were written; greedy replies are what `limbeck evaluate` with the
dimension `attacks` measures.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

from boundary import Scores, print_told_apart
from limbeck.attacks import AnyAttack
from limbeck.attacks.encoding import Encoding
from limbeck.attacks.many_shot import ManyShot
from limbeck.attacks.multi_turn import THE_MODEL, MultiTurn
from limbeck.attacks.persuasion import Persuasion
from limbeck.attacks.role_play import RolePlay
from limbeck.candidates import passing_store
from limbeck.config import RunConfig, load_config
from limbeck.evaluation.replies import replied
from limbeck.models.local import Local, LocalModel
from limbeck.records import ChoiceRequest, Prompt, Trial
from limbeck.taxonomy import REFUSAL_OPENINGS
from limbeck.workspace import Silent
from seeds import kept_by, rows_of

ATTACKS: tuple[AnyAttack, ...] = (RolePlay(), Persuasion(), Encoding(code="leetspeak"), ManyShot(), MultiTurn())
TURN_TOKENS = 32


def main(folders: Sequence[Path]) -> None:
    """Print one table for each attack, a row for each subject."""
    found: dict[str, dict[str, Scores]] = defaultdict(lambda: defaultdict(lambda: ([], [])))
    for folder in folders:
        config = load_config(folder / "recipe.yaml")
        exam = [Prompt.read(line) for line in rows_of(folder, "prompts")]
        asked = [one for one in exam if one.split == "exam" and (one.conduct == "refuse" or one.is_twin)]
        base = Local(name="base", model=config.student.model, dtype=config.student.dtype)
        for subject, adapter in (
            ("student", folder / "student" / "adapter"),
            ("filtered_sft", kept_by(folder, "filtered_sft") / "adapter"),
        ):
            print(f"{folder.name}: {subject}", file=sys.stderr)
            with base.model_copy(update={"adapter": adapter}).open() as model:
                for attack in ATTACKS:
                    for prompt, chance in decisions(model, attack, asked, config):
                        found[attack.name][subject][0 if prompt.conduct == "refuse" else 1].append(chance)
    for attack, by_subject in found.items():
        print(f"\n{attack}")
        print_told_apart(by_subject, {})


def decisions(
    model: LocalModel, attack: AnyAttack, prompts: Sequence[Prompt], config: RunConfig
) -> Iterator[tuple[Prompt, float]]:
    """Each prompt with the probability of refusing it under the attack, the mean of its attempts."""
    trials = [
        Trial(prompt=prompt, subject=model.name, asked="reply", attack=attack.name, sent=attempt.messages)
        for prompt in prompts
        for attempt in attack.attempts(prompt, seed=config.seed)
    ]
    if any(turn == THE_MODEL for one in trials for turn in one.sent):
        with passing_store(config, Silent()) as store:
            trials = replied(model, trials, store, max_tokens=TURN_TOKENS)
    requests = [ChoiceRequest(messages=one.sent, choices=REFUSAL_OPENINGS) for one in trials]
    scores = {one.request_id: one for one in model.choice_scores(list(dict.fromkeys(requests)))}
    chances: dict[Prompt, list[float]] = defaultdict(list)
    for trial, request in zip(trials, requests, strict=True):
        refusing = trial.model_copy(update={"scores": scores[request.id].total}).p_refusing
        if refusing is not None:
            chances[trial.prompt].append(refusing)
    if unscored := len(set(prompts) - chances.keys()):
        print(f"{attack.name}: {unscored} prompts without scores are left out", file=sys.stderr)
    for prompt, some in chances.items():
        yield prompt, fmean(some)


if __name__ == "__main__":
    main([Path(folder) for folder in sys.argv[1:]])
