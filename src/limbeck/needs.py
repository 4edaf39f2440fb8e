"""What a recipe needs, seen before anything is computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from limbeck.config import RunConfig
from limbeck.curate import planned
from limbeck.errors import InputError, check_installed, did_you_mean
from limbeck.judges.asking import Asking, text_of
from limbeck.judges.cues import plain
from limbeck.judges.guards.safeguard import Safeguard
from limbeck.judges.reward import RewardModelJudge
from limbeck.judges.rubric import Rubric
from limbeck.models import model_of_judge
from limbeck.models.chat import check_same_vocabulary, vocabulary_hash
from limbeck.models.local import Local
from limbeck.models.references import load_tokenizer, on_disk, resolve
from limbeck.models.spec import ModelSpec
from limbeck.spec import parts
from limbeck.taxonomy import EVERYDAY, HARMS, REFUSAL_OPENINGS
from limbeck.teach import routed, wants_reply


def check_needs(config: RunConfig) -> None:
    """Raises InputError where a loss needs what no teacher offers, a package is missing, or a dimension's own items
    cannot be read."""
    check_packages(config)
    check_reasoning(config)
    _check_labellers(config)
    if config.train.asks_live:
        config.teach.live_teacher()
    else:
        _check_kept(config)
    if (loss := config.train.who_needs("rejected")) and not config.teach.learn_to_avoid:
        raise InputError(f"loss '{loss}' needs rejected replies; set teach.learn_to_avoid to true or remove the loss")
    if config.teach.risk is not None and not config.train.who_needs("risk"):
        raise InputError("teach.risk is set, and no loss learns a risk; add the loss 'decision' or remove teach.risk")
    if config.teach.beginnings is not None and not any(teacher.redraws for teacher in config.teach.teachers):
        raise InputError(
            "teach.beginnings needs a teacher that writes, and those of the recipe only recite whole replies; add one, "
            "or remove teach.beginnings"
        )
    _check_refusals(config)
    _check_judges(config)
    for dimension in config.evaluate.dimensions:
        # Without prompts it wants its own items alone: they are read now, and not first when all is trained.
        deque(dimension.wants((), seed=config.seed), maxlen=0)


def _check_refusals(config: RunConfig) -> None:
    """Raises InputError where the house refuses in words that open otherwise than the decision teaches."""
    if config.teach.refusals is None or not config.train.who_needs("risk"):
        return
    for harm, words in config.teach.refusals.by_harm.items():
        if not words.startswith(REFUSAL_OPENINGS[0]):
            hint = " (the apostrophe is another)" if plain(words).startswith(REFUSAL_OPENINGS[0]) else ""
            raise InputError(
                f"teach.refusals.words.{harm} must begin with {REFUSAL_OPENINGS[0]!r}, the opening that the loss "
                f"'decision' draws refusals to, and not with {words[:20]!r}{hint}"
            )


def _check_judges(config: RunConfig) -> None:
    """Raises InputError where the model of a judge is nowhere, its rubric or policy cannot be read, or the key of its
    server is not set."""
    for model in models_beside(config):
        deque(model.looked_up_later(), maxlen=0)
    for part in parts(config):
        if isinstance(part, Rubric):
            text_of(part.file)
        elif isinstance(part, Safeguard):
            text_of(part.policy)


def check_asked(config: RunConfig) -> None:
    """Raises InputError where a model that is asked for replies is nowhere, or the key of its server is not set."""
    for model in config.teach.models:
        deque(model.looked_up_later(), maxlen=0)


def models_beside(config: RunConfig) -> Iterator[ModelSpec]:
    """The models that judge, or that the student is compared with, beside the student and who teaches it."""
    for part in parts(config):
        if isinstance(part, Asking):
            yield model_of_judge(part.model)
        elif isinstance(part, RewardModelJudge):
            yield Local(model=part.model, dtype=part.dtype)
    yield from (part for part in parts(config.evaluate) if isinstance(part, ModelSpec))


def check_packages(config: RunConfig) -> None:
    """Raises InputError where the recipe names what needs a package that is not installed."""
    for tracker in config.train.track:
        check_installed(tracker, wanted_by=f"train.track {tracker}")
    if config.student.adapter.kind == "qlora":
        check_installed("bitsandbytes", wanted_by="student.adapter.kind qlora")
    if config.engine.kind == "ray":
        check_installed("ray", wanted_by="engine.kind ray", requirement="'limbeck[ray]'")


def check_reasoning(config: RunConfig) -> None:
    """Raises InputError where the student learns to reason and gets no room for it when it is asked."""
    reasons = config.train.reasons(config.student.reasoning)
    if reasons is not None and not reasons.max_tokens:
        raise InputError(
            "train.reasoning is then_answer, and student.reasoning.max_tokens is 0: replies would be cut off within "
            "their reasoning; set it to the tokens that reasoning may take, or use train.reasoning: answer_only"
        )


def _check_labellers(config: RunConfig) -> None:
    """Raises InputError where who says the distributions offers less than a loss needs, or says them of other tokens
    than it can compare."""
    across, same = config.train.who_needs("spans"), config.train.who_needs("distribution")
    if (loss := across or same) is None:
        return
    needed = "whole distribution" if across else "distribution"
    labellers = list(_labellers(config))
    for one in labellers:
        if needed not in one.offers:
            raise InputError(
                f"loss '{loss}' needs a {needed}; teacher '{one.name or one.kind}' ({one.kind}) offers "
                f"{', '.join(sorted(one.offers))}; set teach.soft_labels or remove the loss"
            )
    if across:
        if config.teach.mixture is not None:
            raise InputError(
                f"teach.mixture mixes distributions over the student's own tokens, and loss '{loss}' is for a teacher "
                "of other tokens; remove teach.mixture or the loss"
            )
        return
    mine = on_disk(resolve(config.student.model))
    others = {one.tokens_of: one for one in labellers if one.tokens_of not in (None, config.student.model)}
    for place, one in others.items():
        theirs = on_disk(resolve(place)) if place is not None else None
        if mine is not None and theirs is not None:
            check_same_vocabulary(one, vocabulary_hash(load_tokenizer(theirs)), load_tokenizer(mine))


def _check_kept(config: RunConfig) -> None:
    """Raises InputError where drawn ids would mislead a loss, or who says the distributions gives less than is to be
    kept."""
    keep = config.teach.keep
    needy = [loss for loss in config.train.losses if loss.needs & {"distribution", "spans"}]
    for loss in needy:
        if keep.draws_ids and not loss.takes_drawn:
            others = ", train.teacher: live, or forward_kl at temperature 1" if "distribution" in loss.needs else ""
            raise InputError(
                f"teach.keep: {keep.kind} draws ids at random, and loss '{loss.kind}' as it is set would not have the "
                f"right gradient in the mean; use teach.keep: top{others}"
            )
    for one in _labellers(config) if needy else ():
        if keep.needs not in one.offers:
            raise InputError(
                f"teach.keep: {keep.kind} needs a {keep.needs}; '{one.name or one.kind}' ({one.kind}) offers "
                f"{', '.join(sorted(one.offers))}; use teach.keep: top"
            )


def _labellers(config: RunConfig) -> Iterator[ModelSpec]:
    """Who says the distributions behind the replies of each teacher; itself where nobody does."""
    for teacher in config.teach.teachers:
        yield from config.teach.labellers(teacher) or (teacher,)


def check_routes(config: RunConfig) -> None:
    """Raises InputError where no teacher is for a prompt that may be taught: of the training split, or of the probe,
    whose failures are taught in later rounds, or where a route goes by a harm that is none."""
    prompts = list(planned(config.curate, seed=config.seed))
    _check_harms(config, {one.harm for one in prompts if one.harm} | {EVERYDAY, *(harm.name for harm in HARMS)})
    splits = ("train", "probe") if config.rounds > 1 else ("train",)
    taught = [one for one in prompts if one.split in splits and wants_reply(one)]
    deque(routed(config.teach.teachers, taught), maxlen=0)


def _check_harms(config: RunConfig, known: set[str]) -> None:
    """Raises InputError at the first harm that a teacher or a mixture is for and no prompt has."""
    named = [(f"teachers.{number}.harms", one.harms or ()) for number, one in enumerate(config.teach.teachers)]
    if config.teach.mixture is not None:
        named.append(("mixture.by_harm", tuple(config.teach.mixture.by_harm)))
    for place, harms in named:
        for harm in harms:
            if harm not in known:
                raise InputError(
                    f"teach.{place}: {harm!r} is no harm of ours, and of none of the prompts; "
                    + did_you_mean(harm, known)
                )
