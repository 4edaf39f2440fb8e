"""Whether a reply is in another language than its prompt, where both can be told: by script, and within one by the
commonest words."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from limbeck.records import Prompt

FOLDER = Path(__file__).parent
# A text of fewer words tells nothing; where the scripts differ, so few of the prompt do.
LEAST_WORDS = 8
LEAST_WORDS_OF_A_SCRIPT = 3
# Of a reply's words, in one script.
LEAST_OF_A_SCRIPT = 0.75
# Of a text's words, found in the table of a language; a word of several languages counts for each a part.
LEAST_COMMON = 0.15
# How far the language that comes second may come, against the first: relatives share too much to be told apart.
MOST_SECOND = 0.5
# Different words found.
LEAST_DIFFERENT = 4
# Characters of a reply that are read.
BEGINNING = 1000
# Written without blanks: two letters are taken for a word.
UNSPACED = frozenset({"HAN", "KANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN"})
LEAST_KANA = 0.15
LANGUAGE_OF_SCRIPT = {"HANGUL": "ko", "THAI": "th", "GREEK": "el", "HEBREW": "he"}
# Code is in no language: fenced, or a line with what prose has not.
CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|^[^\n]*(?:[{}<>=_]|\w\()[^\n]*$", re.DOTALL | re.MULTILINE)
BETWEEN_WORDS = re.compile(r"[\s\d!-/:-@\[-`{-~¡-¿‐-⁞،؟؛।、-〟！-／：-？]+")
BETWEEN_PIECES = re.compile(r"[\n:：\"“”„«»「」『』]+|[.!?。！？]\s")


class Tongue(NamedTuple):
    """The script that most words of a text are in, its language where that can be told, and how many words are in that
    script and in others."""

    script: str
    language: str | None
    words: float
    others: float

    @property
    def name(self) -> str:
        """The code of the language, else the name of the script."""
        return self.language or self.script.lower()


def other_language(prompt: Prompt, reply: str) -> str | None:
    """The language of the reply, or its script, where that is with confidence another than the prompt's.

    None too where either is too short or mixed, and where the prompt names a language: it may want another one.
    """
    asked, said = tongue(prompt.text), tongue(reply[:BEGINNING])
    if asked is None or said is None or said.words < LEAST_WORDS:
        return None
    if said.words < LEAST_OF_A_SCRIPT * (said.words + said.others) or asked.others >= LEAST_WORDS_OF_A_SCRIPT:
        return None
    if asked.script != said.script:
        differ = asked.words >= LEAST_WORDS_OF_A_SCRIPT
    else:
        known = asked.language is not None and said.language is not None
        differ = known and asked.language != said.language and asked.words >= LEAST_WORDS
    if not differ or _quotes_another(prompt, asked) or _names_a_language(prompt, asked):
        return None
    return said.name


def tongue(text: str, *, least_different: int = LEAST_DIFFERENT) -> Tongue | None:
    """What can be told of a text; None where it has no words."""
    words = _words(CODE.sub(" ", text))
    count: Counter[str] = Counter()
    for word in words:
        for script, letters in Counter(script_of(letter) for letter in word if letter.isalpha()).items():
            count[script] += letters if script in UNSPACED else 2
    kana = count.pop("KANA", 0)
    if not count and not kana:
        return None
    count["HAN"] += kana
    script, most = count.most_common(1)[0]
    if script == "HAN":
        language = "ja" if kana >= LEAST_KANA * most else None if kana else "zh"
    else:
        language = LANGUAGE_OF_SCRIPT.get(script) or _language(words, least_different)
    return Tongue(script, language, most / 2, (count.total() - most) / 2)


@cache
def script_of(letter: str) -> str:
    """LATIN, CYRILLIC, …, as Unicode names it; HAN for Chinese characters and KANA for both of Japanese."""
    first = unicodedata.name(letter, "UNNAMED").split()[0].partition("-")[0]
    return {"CJK": "HAN", "HIRAGANA": "KANA", "KATAKANA": "KANA"}.get(first, first)


def _language(words: Sequence[str], least_different: int) -> str | None:
    """The language whose commonest words these have, where no other comes near it."""
    score: defaultdict[str, float] = defaultdict(float)
    different: defaultdict[str, set[str]] = defaultdict(set)
    for word in words:
        # As written: a capital may begin a name ("Los Angeles"), which is at home in every language.
        for language in (known := _function_words().get(word, ())):
            score[language] += 1 / len(known)
            different[language].add(word)
    first, second, *_ = [*sorted(score, key=score.__getitem__, reverse=True), "", ""]
    clear = score[first] >= LEAST_COMMON * len(words) and score[second] <= MOST_SECOND * score[first]
    return first if clear and len(different[first]) >= least_different else None


def _quotes_another(prompt: Prompt, asked: Tongue) -> bool:
    """Whether a part of what the user wrote is in another language, such as a text to be worked on."""
    written = "\n".join(message.content for message in prompt.messages if message.role == "user")
    # One word is enough: what is left out by mistake is not counted by mistake.
    pieces = [found for piece in BETWEEN_PIECES.split(written) if (found := tongue(piece, least_different=1))]
    return any(
        piece.script != asked.script
        or (None not in (piece.language, asked.language) and piece.language != asked.language)
        for piece in pieces
    )


def _names_a_language(prompt: Prompt, asked: Tongue) -> bool:
    """Whether a language is named anywhere, or a translation wanted, in English or the prompt's own language."""
    names = _language_names()
    # Where the language is not known, in any.
    own = {"en", asked.language} if asked.language is not None else set(names)
    text = " ".join(unicodedata.normalize("NFKC", message.content).casefold() for message in prompt.messages)
    return any(_has(text, name) for language in own for name in names.get(language, ()))


def _has(text: str, name: str) -> bool:
    """Whether a word begins so; in a script without capitals, which may write words together, whether it stands
    anywhere."""
    begins = r"(?<![^\W\d_])" if name.upper() != name else ""
    return re.search(begins + re.escape(name), text) is not None


def _words(text: str) -> list[str]:
    return [word for word in BETWEEN_WORDS.split(unicodedata.normalize("NFKC", text)) if word]


@cache
def _function_words() -> dict[str, tuple[str, ...]]:
    """The languages that have a word among their commonest."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for language, words in _table("function_words.txt"):
        for word in dict.fromkeys(words):
            found[word].append(language)
    return {word: tuple(languages) for word, languages in found.items()}


@cache
def _language_names() -> dict[str, tuple[str, ...]]:
    """What begins the names of languages, by the language that they are written in."""
    return {language: tuple(name.casefold() for name in names) for language, names in _table("language_names.txt")}


def _table(file: str) -> Iterator[tuple[str, Iterable[str]]]:
    for line in (FOLDER / file).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            language, *words = unicodedata.normalize("NFKC", line).split()
            yield language, words
