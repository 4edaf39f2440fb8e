"""Two tokenisations of a text are cut where both end, and a teacher's words are put into the student's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from limbeck.protocols import Spans, TopK
from limbeck.targets.spans import Span, aligned, outcomes, spans_of

ONE = Span(range(1), range(1))


def cut(student: list[str], teacher: list[str]) -> list[tuple[str, str]]:
    """The spans, each as the student's and the teacher's tokens."""
    spans = aligned([one.encode() for one in student], [one.encode() for one in teacher])
    return [
        ("|".join(student[at] for at in span.student), "|".join(teacher[at] for at in span.teacher)) for span in spans
    ]


@pytest.mark.parametrize(
    ("student", "teacher", "spans"),
    [
        (["to", " be"], ["to", " be"], [("to", "to"), (" be", " be")]),
        (["to", " b", "e"], ["t", "o", " be"], [("to", "t|o"), (" b|e", " be")]),
        # No end in common but the last.
        (["ab", "cd", "e"], ["a", "bc", "de"], [("ab|cd|e", "a|bc|de")]),
        # With the space that sentencepiece begins a text with nothing can be compared.
        (["can", "not"], [" can", "not"], [("not", "not")]),
        ([" ", "cannot", "!"], ["can", "not", "!"], [("!", "!")]),
    ],
)
def test_spans_are_the_shortest_that_end_at_the_same_byte(
    student: list[str], teacher: list[str], spans: list[tuple[str, str]]
) -> None:
    assert cut(student, teacher) == spans


def test_a_letter_that_both_cut_into_bytes_is_cut_where_both_do() -> None:
    # "é" is two bytes: the student has both by themselves, the teacher the first with the letter before it.
    spans = aligned([b"n", b"\xc3", b"\xa9"], [b"n\xc3", b"\xa9"])
    assert spans == [Span(range(2), range(1)), Span(range(2, 3), range(1, 2))]


def test_texts_that_differ_have_no_spans() -> None:
    assert cut(["to", " be"], ["to", " bee"]) == []
    assert cut(["to", "", " be"], ["to", " be"]) == []


# Teacher "t" 0, "o" 1, " be" 2, " b" 3, "to" 4, "ta" 5; student "to" 0, " b" 1, "e" 2, "a" 3. They share "to" and " b".
COUNTERPARTS = {3: 1, 4: 0}
TO, BE = Span(range(0, 1), range(0, 2)), Span(range(1, 3), range(2, 3))


def test_a_span_is_as_likely_as_the_product_of_its_tokens_in_every_spelling() -> None:
    # "t" .6, then "o" .5: .3, and .1 for "to" at once. Left of "t" is .3; of it and of "ta" the student has no token.
    found = outcomes([(0, 0.6), (5, 0.2), (4, 0.1)], [(0, 0.6), (1, 0.5)], first=0, span=TO, counterparts=COUNTERPARTS)
    assert (found.whole, found.tail) == (pytest.approx(0.4), pytest.approx(0.6))
    assert (dict(found.of), found.odd) == ({0: 0.0}, pytest.approx([0.3, 0.2]))


def test_the_first_token_of_the_span_and_then_something_else_is_another_outcome() -> None:
    # " b" .1 is the student's first token of " b|e": what the teacher says with it is no " be".
    found = outcomes([(2, 0.7), (3, 0.1), (5, 0.1)], [(2, 0.7)], first=1, span=BE, counterparts=COUNTERPARTS)
    assert (found.whole, dict(found.of)) == (0.7, {1: 0.1})
    assert (found.odd, found.tail) == ([0.1], pytest.approx(0.2))


def test_what_is_one_token_in_both_is_the_kept_ids_and_the_rest_whether_it_is_kept_or_not() -> None:
    found = outcomes([(4, 0.6), (3, 0.3)], [(4, 0.6)], first=0, span=ONE, counterparts=COUNTERPARTS)
    assert (dict(found.of), found.whole, found.tail) == ({0: 0.6, 1: 0.3}, 0.0, pytest.approx(0.1))
    beyond = outcomes([(3, 0.3)], [(4, 0.05)], first=0, span=ONE, counterparts=COUNTERPARTS)
    assert (dict(beyond.of), beyond.whole, beyond.tail) == ({1: 0.3}, 0.0, pytest.approx(0.7))


def made() -> Spans:
    """What the teacher says of "to be", by the student's three tokens and an end that belongs to no span."""
    top = TopK(
        torch.tensor([[0, 5, 4], [1, 5, 0], [2, 3, 5]]),
        torch.tensor([[0.6, 0.2, 0.1], [0.5, 0.3, 0.1], [0.7, 0.1, 0.1]]).log(),
        torch.tensor([0.1, 0.1, 0.1]).log(),
    )
    said_M = torch.tensor([0.6, 0.5, 0.7]).log()
    return spans_of([TO, BE], top, said_M, student=[0, 1, 2, 9], teacher=[0, 1, 2], counterparts=COUNTERPARTS)


def test_rows_stand_where_spans_begin() -> None:
    found = made()
    assert found.begins_N.tolist() == [True, True, False, True]
    assert found.known_N.tolist() == [True, True, False, False]
    assert found.ids_NW.tolist() == [[0], [1], [-1], [-1]]

    def p(column: Tensor) -> list[float]:
        return [pytest.approx(one, abs=1e-6) for one in column.exp().flatten().tolist()]

    assert p(found.logprobs_NW) == [0.0, 0.1, 0.0, 0.0]
    assert p(found.whole_N) == [0.4, 0.7, 0.0, 0.0]
    assert p(found.tail_N) == [0.6, 0.2, 0.0, 0.0]
    assert p(found.odd_NU) == [0.3, 0.2, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0]
