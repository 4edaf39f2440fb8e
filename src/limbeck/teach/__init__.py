"""Prompts in, candidates out: teachers reply, judges reject, what was rejected is drawn again and kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import NamedTuple

from limbeck.errors import InputError
from limbeck.models.local import Local, check_lengths
from limbeck.models.spec import ModelSpec
from limbeck.protocols import Continuation, Store
from limbeck.records import Candidate, Prompt
from limbeck.taxonomy import EVERYDAY, HOUSE
from limbeck.teach.failures import telling_failures
from limbeck.teach.language import telling_languages
from limbeck.teach.rejection import draw_until_accepted, not_accepted
from limbeck.teach.settings import TeachSettings


def teach(settings: TeachSettings, student: Local, prompts: Sequence[Prompt], *, store: Store) -> Iterator[Candidate]:
    """All draws of all teachers, accepted or not, those of the second on what the first could not say, what the house
    refuses, then the student's own on what it should be careful with.

    Tells of draws that came to nothing, and of teachers that reply in another language than they are asked in. Raises
    InputError for a prompt that exceeds the student's context, before anything is drawn.
    """
    to_come = [Continuation(prompt.source or "a prompt", prompt.messages, "", ends=False) for prompt in prompts]
    check_lengths(student, to_come, reply_tokens=settings.max_tokens)
    drawn = telling_failures(_draws(settings, student, prompts, store), say=store.say)
    yield from telling_languages(drawn, say=store.say)


def _draws(settings: TeachSettings, student: Local, prompts: Sequence[Prompt], store: Store) -> Iterator[Candidate]:
    asked = who_is_asked(settings, prompts)
    second = next((teacher for teacher in settings.teachers if teacher.name == settings.second), None)
    left: list[Prompt] = []
    for teacher, mine in asked.taught:
        if mine:
            last = yield from draw_until_accepted(settings, teacher, mine, store)
            if second is not None and teacher is not second:
                left += filter(second.is_for, not_accepted(settings, last, store))
    if second is not None and left:
        yield from draw_until_accepted(settings, second, left, store)
    if settings.beginnings is not None:
        short = settings.model_copy(update={"draws": 1, "max_tokens": settings.beginnings.tokens})
        for teacher, mine in asked.begun:
            if mine:
                yield from draw_until_accepted(short, teacher, mine, store, begun=True)
    for prompt, words in asked.refused:
        yield Candidate(prompt=prompt, teacher=HOUSE, role="taught", reply=words, finish="stop")
    if asked.avoided:
        once = settings.model_copy(update={"draws": 1})
        yield from draw_until_accepted(once, student, asked.avoided, store, role="rejected")


class Asked(NamedTuple):
    """Who is asked what: the teachers for replies and for beginnings of some, and the student itself for replies that
    it is to avoid; and what is refused in which words, without asking anybody."""

    taught: list[tuple[ModelSpec, list[Prompt]]]
    begun: list[tuple[ModelSpec, list[Prompt]]]
    refused: list[tuple[Prompt, str]]
    avoided: list[Prompt]


def who_is_asked(settings: TeachSettings, prompts: Sequence[Prompt]) -> Asked:
    """Each distinct prompt that wants a reply, or the beginning of one, for whom it is; and what the house refuses."""
    distinct = {prompt.id: prompt for prompt in prompts}
    asked = [prompt for prompt in distinct.values() if wants_reply(prompt)]
    careful = [prompt for prompt in asked if prompt.conduct != "answer"] if settings.learn_to_avoid else []
    whole = _spread(asked, settings.at_most)
    left = [distinct[name] for name in sorted(distinct.keys() - {prompt.id for prompt in whole})]
    begun = _prompts_to_begin(settings, left)
    refused = _prompts_to_refuse(settings, left)
    return Asked(list(routed(settings.teachers, whole)), list(routed(settings.teachers, begun)), refused, careful)


def _prompts_to_begin(settings: TeachSettings, left: Sequence[Prompt]) -> list[Prompt]:
    """Which of the prompts that are `left` get the beginning of a reply, chosen by hash: harmless ones for which there
    is a teacher that writes; a recording has whole replies only."""
    if settings.beginnings is None:
        return []
    harmless = [one for one in left if one.conduct == "answer" and not one.choices]
    return [one for one in harmless if _writes(settings.teachers, one)][: settings.beginnings.at_most]


def _prompts_to_refuse(settings: TeachSettings, left: Sequence[Prompt]) -> list[tuple[Prompt, str]]:
    """Which of the prompts that are `left` the house refuses, chosen by hash, and in which words."""
    if settings.refusals is None:
        return []
    said = ((one, settings.refusals.to(one)) for one in left if not one.choices)
    return [(one, words) for one, words in said if words is not None][: settings.refusals.at_most]


def _writes(teachers: Sequence[ModelSpec], prompt: Prompt) -> bool:
    """Whether the first teacher that is for the prompt writes replies of its own."""
    return next((teacher.redraws for teacher in teachers if teacher.is_for(prompt)), False)


def wants_reply(prompt: Prompt) -> bool:
    """Whether a teacher is to reply to the prompt."""
    return prompt.lesson == "reply" and not prompt.choices


def _spread(prompts: Sequence[Prompt], at_most: int | None) -> list[Prompt]:
    """At most so many prompts, new variants first, then one of each conduct in turn, chosen by hash."""
    waiting: dict[str, list[Prompt]] = defaultdict(list)
    for prompt in sorted(prompts, key=lambda one: (one.root is None, one.id)):
        waiting[prompt.conduct].append(prompt)
    in_turn = [prompt for row in zip_longest(*waiting.values()) for prompt in row if prompt is not None]
    return in_turn[:at_most]


def routed(teachers: Sequence[ModelSpec], prompts: Sequence[Prompt]) -> Iterator[tuple[ModelSpec, list[Prompt]]]:
    """Each teacher with the prompts it is the first to be for. Raises InputError for a prompt that nobody is for."""
    if prompts and not teachers:
        raise InputError(
            "teach.teachers is empty, and somebody has to say what the student learns; name a teacher, or train from "
            "ready lessons with limbeck train --lessons"
        )
    mine: dict[int, list[Prompt]] = {at: [] for at in range(len(teachers))}
    for prompt in prompts:
        at = next((at for at, teacher in enumerate(teachers) if teacher.is_for(prompt)), None)
        if at is None:
            raise InputError(
                f"teach.teachers: nobody is for harm {prompt.harm or EVERYDAY}, tier {prompt.tier}, conduct "
                f"{prompt.conduct}, language {prompt.language} (prompt {prompt.id}); widen a teacher's harms, tiers, "
                "conducts or languages"
            )
        mine[at].append(prompt)
    for at, teacher in enumerate(teachers):
        yield teacher, mine[at]
