"""Reward models in this process: a sequence classifier with one output. Axes: B exchanges, T tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from limbeck.errors import InputError
from limbeck.models.precision import torch_type
from limbeck.models.references import load_classifier, load_own_tokenizer, resolve
from limbeck.protocols import Dtype, Exchange, Reward

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH_TOKENS = 8192  # padding included


@contextmanager
def open_reward(name: str, *, dtype: Dtype) -> Iterator[LocalReward]:
    """The reward model, in memory until the block ends. Raises InputError where the model gives no single number."""
    reference = resolve(name)
    tokenizer = load_own_tokenizer(reference)
    weights = load_classifier(reference, dtype)
    if weights.config.num_labels != 1:
        raise InputError(
            f"model '{name}': its classifier has {weights.config.num_labels} outputs, a reward model has one; "
            "name a reward model"
        )
    if tokenizer.chat_template is None and getattr(weights.config, "type_vocab_size", 0) > 1:
        raise InputError(
            f"model '{name}' tells prompt and reply apart by token types, which it is not given here; "
            "name a reward model with a chat template"
        )
    yield LocalReward(f"{reference.identity} {torch_type(dtype)}", weights, tokenizer)


class LocalReward:
    """Reads each exchange whole, as a chat by the model's own template or, without one, as a pair of texts."""

    def __init__(self, identity: str, weights: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.identity = identity
        self.weights = weights
        self.tokenizer = tokenizer
        # A tokenizer that names no limit has a very large one; RoBERTa's is below its number of positions.
        positions = int(weights.config.get_text_config().max_position_embeddings)
        self.context = min(positions, int(tokenizer.model_max_length))
        self.pad: int | None = weights.config.get_text_config().pad_token_id

    def rewards(self, exchanges: Sequence[Exchange]) -> list[Reward]:
        """A reward for each exchange, in order; None where it has more tokens than the model reads, or none came."""
        from limbeck.models.tree import by_length

        rows = [self._ids(one) for one in exchanges]
        found = {
            item: Reward(None, f"prompt and reply have {len(row)} tokens, the reward model reads {self.context}")
            for item, row in enumerate(rows)
            if len(row) > self.context
        }
        short = [item for item in range(len(rows)) if item not in found]
        # Each by itself where the model knows no padding.
        budget = BATCH_TOKENS if self.pad is not None else 0
        for batch in by_length([len(rows[item]) for item in short], budget=budget):
            items = [short[at] for at in batch]
            for item, value in zip(items, self._read([rows[item] for item in items]), strict=True):
                found[item] = Reward(value) if math.isfinite(value) else Reward(None, f"the reward is {value}")
        return [found[item] for item in range(len(rows))]

    def _ids(self, exchange: Exchange) -> list[int]:
        if self.tokenizer.chat_template is None:
            return list(self.tokenizer(exchange.prompt, exchange.reply, verbose=False)["input_ids"])
        turns = [{"role": "user", "content": exchange.prompt}, {"role": "assistant", "content": exchange.reply}]
        text = self.tokenizer.apply_chat_template(turns, tokenize=False)
        return list(self.tokenizer.encode(text, add_special_tokens=False, verbose=False))

    def _read(self, rows: Sequence[Sequence[int]]) -> list[float]:
        import torch

        longest = max(map(len, rows))
        ids_BT = torch.full((len(rows), longest), self.pad or 0, device=self.weights.device)
        there_BT = torch.zeros_like(ids_BT)
        for at, row in enumerate(rows):
            ids_BT[at, : len(row)] = torch.tensor(row)
            there_BT[at, : len(row)] = 1
        with torch.no_grad():
            said_B1 = self.weights(input_ids=ids_BT, attention_mask=there_BT).logits
        return list(said_B1[:, 0].tolist())
