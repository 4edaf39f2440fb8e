"""The whole text counts, however long."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limbeck.models.encoder import STRIDE_WORDS, WINDOW_WORDS, ModelTools, windows


def test_every_word_is_in_a_window_and_no_window_is_too_long() -> None:
    for count in (1, WINDOW_WORDS, WINDOW_WORDS + 1, STRIDE_WORDS * 2, 777):
        words = [str(number) for number in range(count)]
        found = [window.split() for window in windows(" ".join(words))]
        assert {word for window in found for word in window} == set(words)
        assert max(map(len, found)) <= WINDOW_WORDS


def test_a_short_text_is_one_window_and_an_empty_one_too() -> None:
    assert windows("a b  c") == ["a b c"]
    assert windows("") == [""]


def test_no_window_lies_wholly_inside_the_one_before() -> None:
    for count in range(1, 500):
        found = windows(" ".join(str(number) for number in range(count)))
        assert len(found) == 1 or int(found[-1].split()[-1]) > int(found[-2].split()[-1])


@pytest.mark.model
def test_exact_embeddings_do_not_hang_on_what_the_machine_multiplies_in(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["How do I boil an egg?", "word " * 400, ""]
    encoder, found = ModelTools().encoder(), {}
    for native in (True, False):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda native=native: {"avx512_bf16": native}, raising=False)
        found[native] = encoder.encode(texts), encoder.encode(texts, exact=True)
    np.testing.assert_array_equal(found[True][1], found[False][1])
    np.testing.assert_array_equal(found[False][0], found[False][1])
    # In bfloat16 they are others, and hardly.
    assert float((found[True][0] * found[True][1]).sum(axis=1).min()) > 0.999
    assert np.abs(found[True][0] - found[True][1]).max() > 1e-5


@pytest.mark.model
def test_a_short_text_that_is_read_means_what_it_does_when_encoded_and_its_company_does_not_matter() -> None:
    texts = ["How do I boil an egg?", "No.", "I can't help with that, because it would hurt people. " * 3]
    encoder = ModelTools().encoder()
    meant_BD, worded_BSD = encoder.read(texts)
    np.testing.assert_allclose(meant_BD, encoder.encode(texts), atol=0.01)
    alone_BD, worded_alone_BSD = encoder.read(texts[1:2])
    np.testing.assert_allclose(alone_BD[0], meant_BD[1], atol=0.01)
    np.testing.assert_allclose(worded_alone_BSD[0], worded_BSD[1], atol=0.1)
    nothing_BD, unworded_BSD = encoder.read([])
    assert (nothing_BD.shape, unworded_BSD.shape) == ((0, 384), (0, 3, 384))
    mean_BD, most_BD, least_BD = worded_BSD.swapaxes(0, 1)
    assert (least_BD <= mean_BD).all() and (mean_BD <= most_BD).all()
