"""The words of a reply, alone and in runs of up to three, the rarer the heavier."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from limbeck.judges.cues import plain

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer

# B replies, T terms
LEAST_REPLIES = 6  # that a term must be in to be kept
RUN_WORDS = (1, 3)  # least and most
# Weight of all words together against that of one embedding; 3 beat 2 and 4 in cross-validation.
WORDS_SAY = 3.0


class Wording(NamedTuple):
    """T terms and how rare each is (inverse document frequency, natural log)."""

    terms: tuple[str, ...]
    rarity_T: NDArray[np.float64]

    @classmethod
    def learnt(cls, replies: Iterable[str]) -> Self:
        """The terms that enough of the replies have in common. Raises ValueError where there is none."""
        vectorizer = _vectorizer().fit(map(plain, replies))
        return cls(tuple(vectorizer.get_feature_names_out().tolist()), np.asarray(vectorizer.idf_))

    @classmethod
    def of(cls, stored: Mapping[str, float]) -> Self:
        """The terms as `stored` wrote them."""
        return cls(tuple(stored), np.array(list(stored.values())))

    def stored(self) -> dict[str, float]:
        """Rarity by term."""
        return {term: round(rarity, 4) for term, rarity in zip(self.terms, self.rarity_T.tolist(), strict=True)}

    def features(self, replies: Sequence[str]) -> NDArray[np.float64]:
        """The share of each term in each reply, shape (B, T); a row's Euclidean length is WORDS_SAY, or 0."""
        vectorizer = _vectorizer(self.terms)
        vectorizer.idf_ = self.rarity_T
        return np.asarray(vectorizer.transform([plain(reply) for reply in replies]).toarray() * WORDS_SAY)


def _vectorizer(terms: Sequence[str] | None = None) -> TfidfVectorizer:
    """Of these terms, or of those that it is fitted on."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    least = LEAST_REPLIES if terms is None else 1
    return TfidfVectorizer(
        ngram_range=RUN_WORDS, sublinear_tf=True, token_pattern=r"[\w']+", min_df=least, vocabulary=terms
    )
