"""Prompts read together, what they share once, are as if each had been read alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from limbeck.models.prefill import PASS, prefill
from limbeck.models.references import load_weights, resolve
from limbeck.models.room import ROOM, Room

SYSTEM = [5, 9, 17, 33]
# Two of a length, and one so long that padding them to it would cost more than to read it by itself.
LONG_AND_SHORT = [[*SYSTEM, 8, 9], [*SYSTEM, *range(50, 50 + PASS + 3)], [*SYSTEM, 7]]
PROMPTS = [[*SYSTEM, 40, 41, 42], [*SYSTEM, 50], [*SYSTEM, 40, 41, 42], [*SYSTEM, 60, 61]]


@pytest.fixture(scope="module")
def decoder(tiny_model: Path) -> Any:
    return load_weights(resolve(str(tiny_model)), "float32").get_decoder()


def read(decoder: Any, prompts: list[list[int]]) -> tuple[list[int], torch.Tensor]:
    """How many tokens each pass over the decoder had, and the last hidden states."""
    passes: list[int] = []
    handle = decoder.register_forward_pre_hook(
        lambda _, __, given: passes.append(given["input_ids"].numel()), with_kwargs=True
    )
    with torch.inference_mode():
        hidden_BH = prefill(decoder, prompts, pad=0).hidden_BH
    handle.remove()
    return passes, hidden_BH


@pytest.mark.parametrize(
    "prompts",
    [PROMPTS, PROMPTS[:1], [PROMPTS[0]] * 3, [[7], [8, 9]], [[5, 6], [5, 6, 7]], [[5], [5, 6]], LONG_AND_SHORT],
)
def test_each_prompt_is_read_as_if_alone(decoder: Any, prompts: list[list[int]]) -> None:
    _, together_BH = read(decoder, prompts)
    alone_BH = torch.cat([read(decoder, [prompt])[1] for prompt in prompts])
    torch.testing.assert_close(together_BH, alone_BH, atol=1e-5, rtol=1e-5)


def test_a_shared_beginning_and_a_repeated_prompt_are_computed_once(decoder: Any) -> None:
    # The system prompt, then three distinct rests padded to three tokens each.
    assert read(decoder, PROMPTS)[0] == [4, 9]


def test_prompts_about_as_long_are_read_together(decoder: Any) -> None:
    assert read(decoder, LONG_AND_SHORT)[0] == [4, PASS + 3, 4]


def test_what_is_read_in_parts_goes_on_as_if_read_together(decoder: Any) -> None:
    with torch.inference_mode():
        cache, mask_BT, _ = prefill(decoder, LONG_AND_SHORT, pad=0)
        alone = [prefill(decoder, [prompt], pad=0) for prompt in LONG_AND_SHORT]
        nexts = []
        for held, seen in [(cache, mask_BT), *((one.cache, one.mask_BT) for one in alone)]:
            seen = torch.cat([seen, torch.ones_like(seen[:, :1])], dim=1)
            ids = torch.full((len(seen), 1), 65)
            places = seen.sum(1, keepdim=True) - 1
            said = decoder(
                input_ids=ids, attention_mask=seen, position_ids=places, past_key_values=held, use_cache=True
            )
            nexts.append(said.last_hidden_state[:, -1])
    torch.testing.assert_close(nexts[0], torch.cat(nexts[1:]), atol=1e-5, rtol=1e-5)


def test_what_is_appended_stands_behind_what_was_there_and_takes_no_new_memory_while_there_is_room() -> None:
    whole, room = torch.arange(2 * 3 * 100 * 4.0).view(2, 3, 100, 4), Room()
    held = room.append(whole[:, :, :10], whole[:, :, 10:11])
    place = held.data_ptr()
    for at in range(11, 11 + ROOM):
        held = room.append(held, whole[:, :, at : at + 1])
        assert held.data_ptr() == place
    assert torch.equal(held, whole[:, :, : 11 + ROOM])
    held = room.append(held, whole[:, :, 11 + ROOM :])
    assert torch.equal(held, whole) and held.data_ptr() != place
    assert torch.equal(whole, torch.arange(2 * 3 * 100 * 4.0).view(2, 3, 100, 4))


def test_rows_that_leave_and_tokens_that_come_do_not_mix() -> None:
    whole, room = torch.arange(3 * 2 * 9 * 4.0).view(3, 2, 9, 4), Room()
    held = room.append(whole[:, :, :5], whole[:, :, 5:6])[[0, 2]]
    assert torch.equal(room.append(held, whole[[0, 2], :, 6:]), whole[[0, 2]])


def test_with_a_sliding_window_each_reply_is_still_as_if_its_prompt_were_alone() -> None:
    from transformers import MistralConfig, MistralModel

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=6, initializer_range=0.3,
    )  # fmt: skip
    windowed = MistralModel(config).eval()
    passes, together_BH = read(windowed, PROMPTS)
    assert passes == [3 * 7]
    alone_BH = torch.cat([read(windowed, [prompt])[1] for prompt in PROMPTS])
    torch.testing.assert_close(together_BH, alone_BH, atol=1e-5, rtol=1e-5)
