"""A reply in another language than its prompt is found where both can be told; a task that wants one is left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from limbeck.curate import sources
from limbeck.judges.language import FOLDER, other_language, tongue
from limbeck.records import Message, Prompt, asked

ENGLISH = "How long do I have to boil an egg so that it is soft?"
GERMAN = "Wie lange muss ich ein Ei kochen, damit es noch weich ist?"
IN_ENGLISH = (
    "Put it into boiling water for five minutes, and then hold it under the cold tap so that it does not go on."
)
IN_GERMAN = (
    "Lege das Ei für fünf Minuten in kochendes Wasser, und dann halte es kurz unter kaltes Wasser, wenn du magst."
)
IN_FRENCH = "Mettez l'œuf dans une casserole d'eau chaude pendant cinq minutes, puis passez-le sous l'eau froide."
IN_CHINESE = "把鸡蛋放进开水里煮五分钟，然后用冷水冲一下，这样蛋黄就是软的。"
IN_RUSSIAN = "Положите яйцо в кипящую воду на пять минут, а потом сразу остудите его под холодной водой."


def prompt(text: str, *, system: str | None = None) -> Prompt:
    before = (Message(role="system", content=system),) if system is not None else ()
    return Prompt(messages=(*before, *asked(text)))


@pytest.mark.parametrize(
    ("text", "reply", "language"),
    [
        (ENGLISH, IN_GERMAN, "de"),
        (ENGLISH, IN_FRENCH, "fr"),
        (ENGLISH, IN_CHINESE, "zh"),
        (GERMAN, IN_ENGLISH, "en"),
        ("How do I boil an egg?", IN_CHINESE, "zh"),
        ("怎么煮鸡蛋才能让蛋黄是软的？", IN_ENGLISH, "en"),
        ("卵を半熟にゆでるには、何分くらいかかりますか？", IN_CHINESE, "zh"),
        (ENGLISH, IN_RUSSIAN, "ru"),
    ],
)
def test_a_reply_in_another_language_is_found(text: str, reply: str, language: str) -> None:
    assert other_language(prompt(text), reply) == language


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        (ENGLISH, IN_ENGLISH),
        (GERMAN, IN_GERMAN),
        ("怎么煮鸡蛋才能让蛋黄是软的？", IN_CHINESE),
        # Names are at home in every language.
        (
            "Which are the largest towns of the south-west that I should see?",
            "Los Angeles, El Paso, Las Vegas, La Jolla",
        ),
        (GERMAN, "```python\nfor egg in eggs:\n    if egg is not None and not egg.is_soft():\n        boil(egg)\n```"),
        # Danish and Norwegian share too much.
        ("Hvor lenge må jeg koke et egg for at det skal være bløtt?", "Kog ægget i fem minutter, og så er det blødt."),
    ],
)
def test_a_reply_in_the_same_language_is_not_counted(text: str, reply: str) -> None:
    assert other_language(prompt(text), reply) is None


@pytest.mark.parametrize("reply", ["Fünf Minuten in kochendem Wasser.", "五分钟。", "", "5 + 5 = 10"])
def test_a_short_reply_tells_nothing(reply: str) -> None:
    assert other_language(prompt(ENGLISH), reply) is None


def test_of_a_short_prompt_the_script_alone_is_told() -> None:
    assert other_language(prompt("How do I boil an egg?"), IN_GERMAN) is None
    assert other_language(prompt("Eggs?"), IN_CHINESE) is None


@pytest.mark.parametrize(
    "text",
    [
        "Translate this into the other language that we both know: how long do I have to boil an egg?",
        f"{ENGLISH} Answer in German, please.",
        f"{GERMAN} Antworte bitte auf Englisch.",
        f"Say in a few words what this is about: {IN_FRENCH}",
        f"Summarise: {IN_CHINESE}",
    ],
)
def test_a_task_with_another_language_in_it_is_left_out(text: str) -> None:
    assert [other_language(prompt(text), reply) for reply in (IN_ENGLISH, IN_GERMAN, IN_FRENCH)] == [None] * 3


def test_a_system_message_may_want_another_language() -> None:
    assert other_language(prompt(ENGLISH, system="You always answer in French."), IN_FRENCH) is None
    assert other_language(prompt(ENGLISH, system="You are a cook."), IN_FRENCH) == "fr"


def test_no_reply_of_the_starter_set_is_in_another_language() -> None:
    files = sorted(sources.STARTER.glob("*.jsonl"))
    rows = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    with_reply = [row for row in rows if row.get("reply")]
    assert [row["prompt"] for row in with_reply if other_language(prompt(row["prompt"]), row["reply"])] == []
    told = [tongue(row["reply"]) for row in with_reply]
    # Not for want of looking.
    assert sum(one is not None and one.language == "en" for one in told) > 0.9 * len(with_reply) > 1000


def test_no_labelled_reply_in_any_language_is_in_another() -> None:
    rows = [json.loads(line) for line in (FOLDER / "examples" / "refusal_languages.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows if other_language(prompt(row["prompt"]), row["reply"])] == []


def test_no_published_task_is_counted_but_for_its_language(published: Path) -> None:
    rows = [json.loads(line) for file in published.glob("benign_self_instruct/*.jsonl") for line in file.open()]
    if not rows:
        pytest.skip("there is no benign_self_instruct in it")
    for row in rows:
        for one in row["instances"]:
            assert other_language(prompt(f"{row['instruction']}\n{one['input']}"), one["output"]) is None
