"""A prompt with several continuations, read in one pass, says what separate passes say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from limbeck.models.references import load_weights, resolve
from limbeck.models.tree import ROW_TOKENS, Tree, by_length, collate, hidden_states, packed, tree_length

PROMPT = [5, 9, 17, 33, 65]
BRANCHES = [[40, 41, 42], [40, 41, 43, 44], [50], [40]]
PAD = 0


@pytest.fixture(scope="module")
def weights(tiny_model: Path) -> Any:
    return load_weights(resolve(str(tiny_model)), "float32")


def plainly(weights: Any, prompt: list[int], branch: list[int]) -> list[float]:
    """Log-probability of each token of a branch, by an ordinary causal pass over prompt and branch."""
    with torch.inference_mode():
        logits_TV = weights(input_ids=torch.tensor([prompt + branch])).logits[0].log_softmax(-1)
    return [float(logits_TV[len(prompt) + at - 1, token]) for at, token in enumerate(branch)]


def as_trees(weights: Any, trees: list[Tree], pad: int = PAD, per_row: int = 1) -> list[list[float]]:
    """The same of every branch of every tree, by one pass over all of them."""
    rows = [trees[first : first + per_row] for first in range(0, len(trees), per_row)]
    batch = collate(rows, pad=pad)
    with torch.inference_mode():
        logprobs_UV = weights.lm_head(hidden_states(weights.get_decoder(), batch)).log_softmax(-1)
    said_N = logprobs_UV[batch.scored.at_N, batch.scored.token_N]
    return [said_N[batch.scored.owner_N == owner].tolist() for owner in range(int(batch.scored.owner_N[-1]) + 1)]


def test_one_tree_pass_scores_every_branch_as_a_plain_pass_of_its_own(weights: Any) -> None:
    found = as_trees(weights, [Tree(PROMPT, BRANCHES)])
    for branch, said in zip(BRANCHES, found, strict=True):
        assert said == pytest.approx(plainly(weights, PROMPT, branch), abs=1e-4)


@pytest.mark.parametrize("per_row", [1, 2, 3])
def test_trees_and_chains_of_unequal_length_do_not_touch_one_another(weights: Any, per_row: int) -> None:
    trees = [Tree(PROMPT, BRANCHES), Tree([7], [[8, 9]]), Tree(PROMPT * 4, [[60, 61], [60, 62]])]
    expected = [plainly(weights, tree.prompt, branch) for tree in trees for branch in tree.branches]
    for one, other in zip(as_trees(weights, trees, per_row=per_row), expected, strict=True):
        assert one == pytest.approx(other, abs=1e-4)


@pytest.mark.parametrize(
    "trees", [[Tree(PROMPT, BRANCHES), Tree([7], [[8, 9], [3]])], [Tree(PROMPT, [[4, 5]]), Tree([7], [[8]])]]
)
def test_what_the_padding_is_changes_nothing(weights: Any, trees: list[Tree]) -> None:
    zeros, others = as_trees(weights, trees), as_trees(weights, trees, pad=200)
    assert [value for said in zeros for value in said] == pytest.approx([value for said in others for value in said])


def test_shared_beginnings_are_computed_once() -> None:
    batch = collate([[Tree(PROMPT, BRANCHES)]], pad=PAD)
    # Predicted: after the prompt (shared by all four), after 40 and after 40 41 (shared by two), after 43.
    assert len(batch.scored.row_U) == 4
    # Scored: 3 + 4 + 1 + 1 tokens.
    assert len(batch.scored.token_N) == 9
    # Read: the prompt, 40, 41, 43; what the last token of a branch would predict is asked of nobody.
    assert batch.ids_BT.tolist() == [[*PROMPT, 40, 41, 43]]
    assert batch.positions_BT.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7]]


def test_prompts_in_one_row_share_their_beginning_alone() -> None:
    batch = collate([[Tree([5, 9, 17], [[40]]), Tree([5, 9, 18], [[50, 51]]), Tree([7], [[8]])]], pad=PAD)
    assert batch.ids_BT.tolist() == [[5, 9, 17, 18, 50, 7]]
    assert batch.positions_BT.tolist() == [[0, 1, 2, 2, 3, 0]]
    assert batch.mask_BTT is not None
    assert batch.mask_BTT[0, 4].int().tolist() == [1, 1, 0, 1, 1, 0]
    assert batch.mask_BTT[0, 5].int().tolist() == [0, 0, 0, 0, 0, 1]


def test_siblings_stand_at_the_same_position_and_do_not_see_each_other() -> None:
    batch = collate([[Tree([5], [[40, 41], [50, 51]])]], pad=PAD)
    assert batch.ids_BT.tolist() == [[5, 40, 50]]
    assert batch.positions_BT.tolist() == [[0, 1, 1]]
    assert batch.mask_BTT is not None
    assert batch.mask_BTT[0].int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 1]]


def test_plain_sequences_need_no_mask() -> None:
    assert collate([[Tree(PROMPT, [[1, 2]])], [Tree([7], [[8]])]], pad=PAD).mask_BTT is None


def test_the_length_of_a_tree_is_never_less_than_what_is_read() -> None:
    tree = Tree(PROMPT, BRANCHES)
    assert tree_length(tree) >= collate([[tree]], pad=PAD).ids_BT.shape[1]


def test_every_item_is_in_one_batch_and_no_batch_exceeds_its_budget() -> None:
    lengths = [3, 9, 1, 4, 4, 30, 2]
    batches = list(by_length(lengths, budget=12))
    assert sorted(item for batch in batches for item in batch) == list(range(7))
    # The item of 30 tokens has to be read somehow: alone.
    assert batches[0] == [5]
    assert all(len(batch) * max(lengths[item] for item in batch) <= 12 for batch in batches[1:])


def test_every_item_is_in_one_row_and_no_batch_exceeds_its_budget_padding_included() -> None:
    lengths = [30, 90, 10, 40, 40, 300, 20, 25, 35]
    batches = list(packed(lengths, budget=200))
    assert sorted(item for rows in batches for row in rows for item in row) == list(range(9))
    # The item of 300 tokens has to be read somehow: alone.
    assert batches[0] == [[5]]
    for rows in batches[1:]:
        assert len(rows) * max(sum(lengths[item] for item in row) for row in rows) <= 200


def test_long_and_short_items_share_rows_so_that_little_is_padding() -> None:
    # Four to a row: 80 + 20 + 18 + 2 and 70 + 30 + 16 + 4 tokens.
    lengths = [80, 70, 30, 20, 18, 16, 4, 2]
    assert list(packed(lengths, budget=1000, per_row=4)) == [[[0, 3, 4, 7], [1, 2, 5, 6]]]


@pytest.mark.parametrize(("lengths", "budget"), [([200] * 3, 600), ([60] * 17, 1024), ([64] * 9, 600)])
def test_rows_of_unlike_length_stay_within_the_budget_too(lengths: list[int], budget: int) -> None:
    batches = list(packed(lengths, budget=budget))
    assert sorted(item for rows in batches for row in rows for item in row) == list(range(len(lengths)))
    assert all(len(rows) * max(sum(lengths[item] for item in row) for row in rows) <= budget for rows in batches)


def test_items_as_long_as_a_row_may_be_stand_alone_in_it() -> None:
    assert list(packed([ROW_TOKENS, ROW_TOKENS], budget=10_000)) == [[[0], [1]]]
