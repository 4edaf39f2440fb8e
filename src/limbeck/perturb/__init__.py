"""Text noise that changes how a prompt is written and not what it asks."""

from __future__ import annotations

import hashlib
import random
import re
from abc import abstractmethod
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny

from limbeck.records import Message, Prompt
from limbeck.spec import Kind, Table


class Perturbation(Kind):
    """Settings of a noise; the same prompt and seed always give the same text."""

    @abstractmethod
    def rewrite(self, text: str, noise: random.Random) -> str:
        """The text, written otherwise."""

    def __call__(self, prompt: Prompt, *, seed: int) -> Prompt:
        """The variant of a prompt: its root, family, conduct and reference stay."""
        digest = hashlib.sha256(f"{self.kind} {seed} {prompt.id}".encode()).digest()
        text = self.rewrite(prompt.text, random.Random(digest))
        messages = (*prompt.messages[:-1], Message(role=prompt.messages[-1].role, content=text))
        root = prompt.root or prompt.id
        return prompt.model_copy(update={"messages": messages, "root": root, "made_by": self.kind})


# Letters beside each other on a QWERTY keyboard.
NEIGHBOURS = {
    "a": "sqz", "b": "vn", "c": "xv", "d": "sf", "e": "wr", "f": "dg", "g": "fh", "h": "gj", "i": "uo", "j": "hk",
    "k": "jl", "l": "k", "m": "n", "n": "bm", "o": "ip", "p": "o", "q": "w", "r": "et", "s": "ad", "t": "ry",
    "u": "yi", "v": "cb", "w": "qe", "x": "zc", "y": "tu", "z": "x",
}  # fmt: skip


class Typos(Perturbation):
    """Slips of the finger: in about `rate` of the longer words two letters swap, one is lost, doubled or missed."""

    kind: Literal["typos"] = "typos"
    rate: float = Field(default=0.15, gt=0, le=1)

    def rewrite(self, text: str, noise: random.Random) -> str:
        words = re.split(r"(\s+)", text)
        longer = [at for at, word in enumerate(words) if len(word) > 3 and word.isalpha()]
        for at in noise.sample(longer, min(len(longer), max(1, round(self.rate * len(longer))))):
            words[at] = _slip(words[at], noise)
        return "".join(words)


def _slip(word: str, noise: random.Random) -> str:
    at = noise.randrange(1, len(word) - 1)
    kind = noise.choice(("swap", "lose", "double", "miss"))
    if kind == "swap":
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if kind == "lose":
        return word[:at] + word[at + 1 :]
    if kind == "double":
        return word[:at] + word[at] + word[at:]
    return word[:at] + noise.choice(NEIGHBOURS.get(word[at].lower(), word[at])) + word[at + 1 :]


class Casing(Perturbation):
    """ALL CAPITALS, all small, or Every Word Capitalised; whichever the text is not yet."""

    kind: Literal["casing"] = "casing"

    def rewrite(self, text: str, noise: random.Random) -> str:
        ways = [way for way in (text.upper(), text.lower(), text.title()) if way != text]
        return noise.choice(ways) if ways else text


# Openings that ask for the same thing. The first group that matches is rephrased by another of its members.
SAME_OPENING = (
    ("how do I ", "how can I ", "what is the way to ", "tell me how to ", "show me how to "),
    ("how do you ", "how does one ", "tell me how you "),
    ("how to ", "how do I ", "the way to "),
    ("write me ", "I need you to write me ", "please write me ", "could you write me "),
    ("write ", "please write ", "I need you to write ", "could you write "),
    ("help me ", "please help me ", "I need help to ", "I want you to help me "),
    ("explain ", "please explain ", "could you explain ", "I would like you to explain "),
    ("give me ", "please give me ", "I would like ", "could you give me "),
    ("tell me ", "please tell me ", "I want to know ", "could you tell me "),
    ("what's ", "what is ", "tell me what is "),
    ("what is ", "what's ", "tell me what is "),
    ("can you ", "could you ", "would you "),
    ("can I ", "may I ", "is it possible for me to "),
    ("should I ", "is it right that I ", "would you say I should "),
    ("why ", "tell me why ", "what is the reason why "),
)
FRAMES = ("Here is my question: {}", "{} Please answer this.", "I was wondering about this. {}", "One thing: {}")
SAME_WORDS = (
    (r"\bI'm\b", "I am"), (r"\bdon't\b", "do not"), (r"\bcan't\b", "cannot"), (r"\bit's\b", "it is"),
    (r"\bI've\b", "I have"), (r"\bwithout\b", "with no"), (r"\bbecause\b", "since"), (r"\bget\b", "obtain"),
    (r"\bmake\b", "create"), (r"\bbig\b", "large"), (r"\bbest way\b", "ideal way"), (r"\bquickly\b", "fast"),
)  # fmt: skip


class Paraphrase(Perturbation):
    """The same request in another wording: its opening, contractions and common words, by rule (English)."""

    kind: Literal["paraphrase"] = "paraphrase"

    def rewrite(self, text: str, noise: random.Random) -> str:
        for pattern, other in SAME_WORDS:
            text = re.sub(pattern, other, text)
        small = text.lower()
        for group in SAME_OPENING:
            if small.startswith(group[0].lower()):
                opening = noise.choice(group[1:])
                return opening[0].upper() + opening[1:] + text[len(group[0]) :]
        return noise.choice(FRAMES).format(text)


# Clauses that may as well stand in front (English).
CLAUSE = re.compile(
    r"^(.+\w),? ((?:because|since|if|when|while|before|after|although|unless|without|until) .+?)([.?!]*)$"
)


class Order(Perturbation):
    """The same sentences in another order; of a single one, its last clause in front, by rule (English). A single
    sentence without such a clause stays."""

    kind: Literal["order"] = "order"

    def rewrite(self, text: str, noise: random.Random) -> str:
        sentences = re.split(r"(?<=[.?!])\s+", text.strip())
        if len(sentences) > 1:
            turn = noise.randrange(1, len(sentences))
            return " ".join(sentences[turn:] + sentences[:turn])
        if found := CLAUSE.match(text):
            rest, clause, end = found.groups()
            first, *others = re.findall(r"\w+", text)
            # "I", "UK" and a name keep their capital; which word is a name is seen where it stands once more.
            keeps = first == "I" or (len(first) > 1 and first.isupper()) or first in others
            small = rest if keeps else rest[0].lower() + rest[1:]
            return f"{clause[0].upper()}{clause[1:]}{noise.choice((',', ''))} {small}{end}"
        return text


PERTURBATIONS: Table[Perturbation] = Table("perturbation", Perturbation, Typos, Casing, Paraphrase, Order)
AnyPerturbation = Annotated[SerializeAsAny[Perturbation], BeforeValidator(PERTURBATIONS.read)]
