"""The words of a reply as features: which there are, how heavy, and that a stored head reads them as the fitted one."""

from __future__ import annotations

import numpy as np

from limbeck.judges.wording import LEAST_REPLIES, WORDS_SAY, Wording

OFTEN = ["I can’t help with that"] * LEAST_REPLIES + ["Boil it for ten minutes"] * (2 * LEAST_REPLIES) + ["Once only"]


def test_terms_are_runs_of_one_to_three_words_that_enough_replies_have() -> None:
    terms = Wording.learnt(OFTEN).terms
    assert {"i", "i can't", "i can't help", "boil it for"} <= set(terms)
    assert not {"once", "i can't help with", "I"} & set(terms)


def test_the_rarer_of_two_terms_is_the_heavier_and_all_replies_with_any_weigh_alike() -> None:
    wording = Wording.learnt(OFTEN)
    (row_T, same_T, none_T) = wording.features(["help boil", "HELP  boil", "something else"])
    at = dict(zip(wording.terms, row_T.tolist(), strict=True))
    assert at["help"] > at["boil"] > 0
    np.testing.assert_allclose(np.linalg.norm(row_T), WORDS_SAY)
    np.testing.assert_allclose(row_T, same_T)
    assert not none_T.any()


def test_stored_terms_are_read_back_as_they_were() -> None:
    wording = Wording.learnt(OFTEN)
    again = Wording.of(wording.stored())
    assert again.terms == wording.terms
    np.testing.assert_allclose(again.features(OFTEN), wording.features(OFTEN), atol=1e-3)
