"""Trials in, failures out; failures in, the next round's prompts out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from pydantic import Field

from limbeck.judges import SafetyJudge
from limbeck.judges.grade import graded
from limbeck.judges.profile import AS_JUDGED, AnyProfile
from limbeck.judges.refusal import Refusal
from limbeck.mine.classify import failure_of
from limbeck.mine.cluster import clusters
from limbeck.models.answer import AnswerSettings
from limbeck.perturb import AnyPerturbation, Casing, Paraphrase, Typos
from limbeck.protocols import NearDuplicates, Store
from limbeck.records import Failure, Prompt, Trial
from limbeck.spec import Spec


class MineSettings(Spec):
    """What counts as a failure, and what is made of it.

    The probe is answered by `answer`, apart from the exam, so that measuring otherwise trains nothing anew. A
    harmless reply is unhelpful where its embedding's cosine with the reference is below `unlike`. Each failed
    prompt is taught next, with `variants` rewordings of it; at most `at_most` prompts in all, clusters in turn.
    """

    answer: AnswerSettings = AnswerSettings()
    judges: tuple[SafetyJudge, ...] = (Refusal(),)
    profile: AnyProfile = AS_JUDGED
    unlike: float = 0.2
    variants: int = Field(default=2, ge=0)
    perturbations: tuple[AnyPerturbation, ...] = (Paraphrase(), Typos(), Casing())
    at_most: int = Field(default=120, ge=1)


def mine(settings: MineSettings, trials: Sequence[Trial], *, store: Store) -> Iterator[Failure]:
    """The trials that went wrong, each with its kind, its evidence and its cluster of similar failures."""
    encoder = store.tools.encoder()
    found = []
    judged = graded(list(trials), settings.judges, store, label="grading the probe", profile=settings.profile)
    for trial in judged:
        if (what := failure_of(trial, encoder, unlike=settings.unlike)) is not None:
            found.append((trial, what))
    numbers = clusters([trial.prompt.text for trial, _ in found], encoder)
    for (trial, (kind, evidence)), number in zip(found, numbers, strict=True):
        yield Failure(trial=trial, kind=kind, evidence=evidence, cluster=number)


def vary(
    settings: MineSettings,
    duplicates: NearDuplicates,
    failures: Sequence[Failure],
    held_out: Sequence[Prompt],
    *,
    store: Store,
) -> Iterator[Prompt]:
    """The prompts of the next round: what failed, and rewordings of it that keep its conduct and reference.

    A near-duplicate of a held-out prompt gets that prompt's split and family: it is kept, and never taught.
    """
    made = list(islice(_variants(settings, failures, seed=store.seed), settings.at_most))
    if not made:
        return
    encoder, kept_apart = store.tools.encoder(), list(held_out)
    measured = encoder.encode([prompt.text for prompt in kept_apart], exact=True)
    for prompt, vector in zip(made, encoder.encode([prompt.text for prompt in made], exact=True), strict=True):
        likeness = measured @ vector
        if len(likeness) and likeness.max() >= duplicates.alike:
            nearest = kept_apart[int(likeness.argmax())]
            prompt = prompt.model_copy(update={"split": nearest.split, "family": nearest.family})
        yield prompt


def _variants(settings: MineSettings, failures: Sequence[Failure], *, seed: int) -> Iterator[Prompt]:
    for failure in _in_turn(failures):
        prompt = failure.trial.prompt.model_copy(update={"split": "train"})
        yield prompt.model_copy(update={"root": prompt.id, "made_by": "probe"})
        for perturbation in settings.perturbations[: settings.variants]:
            if (variant := perturbation(prompt, seed=seed)).text != prompt.text:
                yield variant


def _in_turn(failures: Sequence[Failure]) -> list[Failure]:
    """One of each cluster, then the second of each, and so on: a big cluster does not crowd out the small ones."""
    seen: dict[int, int] = {}
    placed = []
    for failure in failures:
        seen[failure.cluster] = seen.get(failure.cluster, 0) + 1
        placed.append((seen[failure.cluster], failure))
    return [failure for _, failure in sorted(placed, key=lambda one: one[0])]
