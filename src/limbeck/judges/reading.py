"""A reply beside its prompt as a judge reads them: in passages, what these mean, and how both belong together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from limbeck.judges.cues import plain
from limbeck.protocols import Exchange, ReadingEncoder

# P passages, S statistics over tokens (mean, greatest, least), D dimensions of an embedding, R relations
# A reply is read in passages of this many words, each once; MiniLM is slower per word on longer texts.
PASSAGE_WORDS = 40
PROMPT_WORDS = 80
SENTENCE_END = re.compile(r'(?<=[.!?:;])["”)]?\s+|\n+')
WORD = re.compile(r"[a-z']{3,}")
ENDINGS = ("ing", "ies", "ed", "es", "s")
# A reply this long that shares nothing with its prompt is hardly an answer to it; a shorter one may well be.
TELLING_WORDS = 40
# Likeness (cosine) and share of words below which a reply may have strayed from its prompt.
CLOSEST, WHOLE, SHARED = (0.2, 0.35, 0.5), (0.15, 0.3, 0.45), 0.34
# Brings the products of two unit vectors' components near the size of the components.
PRODUCT_SCALE = 10.0
_COMMON = """the and for that this with you your are was were what when how why who which from have has had not but can
could would should will about into them they their there then than some any all one our its"""
COMMON = frozenset(_COMMON.split())


class Reading(NamedTuple):
    """The meaning and the wording of each passage, the meaning of the prompt, and figures of how they are related."""

    passages_PD: NDArray[np.float64]
    worded_PSD: NDArray[np.float64]
    prompt_D: NDArray[np.float64]
    relation_R: NDArray[np.float64]

    @property
    def whole_D(self) -> NDArray[np.float64]:
        """Mean of the passages."""
        return np.asarray(self.passages_PD.mean(axis=0))

    @property
    def wording_F(self) -> NDArray[np.float64]:
        """How it is worded: the mean of the first passage and of all, what is greatest and what is least anywhere."""
        mean_PD, most_PD, least_PD = self.worded_PSD.swapaxes(0, 1)
        return np.concatenate([mean_PD[0], mean_PD.mean(axis=0), most_PD.max(axis=0), least_PD.min(axis=0)])

    @property
    def in_common_D(self) -> NDArray[np.float64]:
        """What the whole reply and the prompt share, dimension by dimension."""
        return np.asarray(unit(self.whole_D) * self.prompt_D * PRODUCT_SCALE)


def readings(exchanges: Sequence[Exchange], encoder: ReadingEncoder) -> list[Reading]:
    """Each exchange read to its end; a text that several share is embedded once."""
    passages = [passages_of(plain(exchange.reply)) for exchange in exchanges]
    prompts = [" ".join(plain(exchange.prompt).split()[:PROMPT_WORDS]) for exchange in exchanges]
    texts = sorted({*prompts, *(passage for reply in passages for passage in reply)})
    embeddings_BD, worded_BSD = (found.astype(np.float64) for found in encoder.read(texts))
    place = {text: at for at, text in enumerate(texts)}
    found = []
    for exchange, reply, prompt in zip(exchanges, passages, prompts, strict=True):
        at_P = [place[passage] for passage in reply]
        passages_PD, prompt_D = embeddings_BD[at_P], embeddings_BD[place[prompt]]
        relation_R = relation(exchange, passages_PD, prompt_D)
        found.append(Reading(passages_PD, worded_BSD[at_P], prompt_D, relation_R))
    return found


def passages_of(reply: str) -> list[str]:
    """The first sentence, then the others packed into passages of at most PASSAGE_WORDS words."""
    sentences = sentences_of(reply)
    return [*packed(sentences[:1], words=PASSAGE_WORDS), *packed(sentences[1:], words=PASSAGE_WORDS)]


def sentences_of(text: str) -> list[str]:
    """The sentences that hold a word."""
    return [sentence for sentence in SENTENCE_END.split(text) if sentence.split()]


def packed(sentences: Sequence[str], *, words: int) -> list[str]:
    """Sentences put together as long as they have no more words than that; a longer one is cut."""
    passages: list[list[str]] = []
    for sentence in map(str.split, sentences):
        for start in range(0, len(sentence), words):
            piece = sentence[start : start + words]
            if passages and len(passages[-1]) + len(piece) <= words:
                passages[-1] = passages[-1] + piece
            else:
                passages.append(piece)
    return [" ".join(passage) for passage in passages]


def relation(
    exchange: Exchange, passages_PD: NDArray[np.float64], prompt_D: NDArray[np.float64]
) -> NDArray[np.float64]:
    """How close the passages are to the prompt, which words both share, and how far that is from what an answer has."""
    likeness_P = passages_PD @ prompt_D
    closest, whole = float(likeness_P.max()), float(unit(passages_PD.mean(axis=0)) @ prompt_D)
    asked, said = content_words(exchange.prompt), content_words(exchange.reply)
    taken_up = len(asked & said) / max(1, len(asked))
    telling = min(1.0, len(exchange.reply.split()) / TELLING_WORDS)
    lacking = [max(0.0, enough - closest) for enough in CLOSEST] + [max(0.0, enough - whole) for enough in WHOLE]
    return np.array(
        [
            *(closest, likeness_P.mean(), likeness_P[0], likeness_P[-1], whole),
            *(taken_up, len(asked & said) / max(1, len(said)), float(taken_up == 0)),
            *lacking,
            *(lack * telling for lack in lacking),
            max(0.0, SHARED - taken_up) * telling,
        ]
    )


def content_words(text: str) -> set[str]:
    """The words that carry a topic, without common endings."""
    return {_stem(word) for word in WORD.findall(plain(text).lower()) if word not in COMMON}


def _stem(word: str) -> str:
    ending = next((one for one in ENDINGS if word.endswith(one) and len(word) > len(one) + 3), "")
    return word.removesuffix(ending)


def unit(vector_D: NDArray[np.float64]) -> NDArray[np.float64]:
    """The vector at length 1; zero stays zero."""
    return vector_D / max(float(np.linalg.norm(vector_D)), 1e-12)
