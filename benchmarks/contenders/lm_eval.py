"""lm-evaluation-harness: its model of transformers weights, asked as its tasks ask it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoTokenizer

import work

if TYPE_CHECKING:
    from worker import Meter


def scoring(setting: work.Setting, rows: Sequence[work.Choices], meter: Meter) -> list[float]:
    """The log-likelihood of each choice behind its prompt."""
    model = _model(setting)
    asked = [(prompt, choice) for prompt, row in zip(_prompts(rows), rows, strict=True) for choice in row.choices]
    instances = [Instance("loglikelihood", {}, pair, 0) for pair in asked]
    model.loglikelihood(instances[:2], disable_tqdm=True)
    meter.start()
    found = model.loglikelihood(instances, disable_tqdm=True)
    meter.lap()
    return [total for total, _ in found]


def generation(setting: work.Setting, rows: Sequence[work.Choices], meter: Meter) -> list[str]:
    """A greedy reply to each prompt."""
    model = _model(setting)
    how = {"until": ["<|im_end|>"], "max_gen_toks": int(setting["reply"]), "do_sample": False}
    instances = [Instance("generate_until", {}, (prompt, how), 0) for prompt in _prompts(rows)]
    model.generate_until(instances[:2], disable_tqdm=True)
    meter.start()
    found = model.generate_until(instances, disable_tqdm=True)
    meter.lap()
    return found


def _model(setting: work.Setting) -> HFLM:
    return HFLM(
        pretrained=str(work.FILES / "smollm2"),
        dtype=setting["dtype"],
        device="cpu",
        batch_size=int(setting["batch"]),
    )


def _prompts(rows: Sequence[work.Choices]) -> list[str]:
    tokenizer = AutoTokenizer.from_pretrained(work.FILES / "smollm2")
    return [work.templated(tokenizer, row.prompt) for row in rows]
