"""Plain torch and transformers: the whole logits at once, a LoRA loop without a teacher (the practical limit), and
`generate` over padded batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

import work

if TYPE_CHECKING:
    from worker import Meter


def matmul(setting: work.Setting) -> Callable[[], Tensor]:
    """A product of (M, K) and (K, N)."""
    m, k, n = (int(setting[size]) for size in ("M", "K", "N"))
    dtype = getattr(torch, setting["dtype"])
    left_MK, right_KN, product_MN = (torch.ones(shape, dtype=dtype) for shape in ((m, k), (k, n), (m, n)))
    return lambda: torch.mm(left_MK, right_KN, out=product_MN)


def head(setting: work.Setting) -> work.Call:
    """Log-softmax of the whole logits of both, and autograd."""
    inputs = work.head(setting)

    def call() -> work.Answer:
        with torch.no_grad():
            p_NV = (inputs.teacher_NH @ inputs.teacher_VH.T).float().log_softmax(-1)
        q_NV = (inputs.student_NH @ inputs.student_VH.T).float().log_softmax(-1)
        return inputs.gradients(work.plain_divergence(p_NV, q_NV, beta=float(setting["beta"])).mean())

    return call


def step(setting: work.Setting, batches: list[list[work.ChatRow]], meter: Meter) -> None:
    """Cross-entropy on the padded batch, as transformers computes it from labels."""
    tokenizer = AutoTokenizer.from_pretrained(work.FILES / "smollm2")
    model = AutoModelForCausalLM.from_pretrained(work.FILES / "smollm2", dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear"))
    model.train()
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=2e-4)
    narrow = setting["dtype"] == "bfloat16"
    for number, rows in enumerate(batches):
        batch = work.padded([_ids(tokenizer, row) for row in rows], pad=tokenizer.pad_token_id)
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        meter.lap() if number else meter.start()


def generation(setting: work.Setting, rows: Sequence[work.Choices], meter: Meter) -> list[str]:
    """`generate` over padded batches, in the order of the prompts."""
    tokenizer = AutoTokenizer.from_pretrained(work.FILES / "smollm2", padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(work.FILES / "smollm2", dtype=getattr(torch, setting["dtype"])).eval()
    size, tokens = int(setting["batch"]), int(setting["reply"])
    prompts = [work.templated(tokenizer, row.prompt) for row in rows]
    work.generated(model, tokenizer, prompts[:2], tokens=tokens)
    meter.start()
    texts = []
    for first in range(0, len(prompts), size):
        texts += work.generated(model, tokenizer, prompts[first : first + size], tokens=tokens)
    meter.lap()
    return texts


def _ids(tokenizer: AutoTokenizer, row: work.ChatRow) -> tuple[list[int], list[int]]:
    texts = (work.templated(tokenizer, row.prompt), row.reply)
    prompt, reply = (tokenizer.encode(text, add_special_tokens=False) for text in texts)
    return prompt, [*reply, tokenizer.eos_token_id]
