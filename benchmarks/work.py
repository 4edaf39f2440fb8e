"""The work itself: seeded inputs that are the same in every venv, and the float64 answers of the head.

Axes: N rows (supervised positions), H hidden, V vocabulary, K kept ids.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from table import HIDDEN, VOCABULARY

FILES = Path(__file__).parent / ".work"
# Rows that are drawn; more are these again, so that the mean loss and its gradients stay the same at every size.
DRAWN = 256
# Ids that a cached teacher keeps: the default of `teach.keep`.
TOP = 32
# Of the weight's gradient every 64th row is compared; all of it in float64 would be 226 MB a setting.
EVERY = 64
# Questions whose answers are compared with those of plain transformers.
CHECKED = 16

Setting = dict[str, str]
Answer = tuple[Tensor, ...]  # the mean loss, its gradient for the hidden states and, for a trainable head, the weight
Call = Callable[[], Answer]


class Head(NamedTuple):
    """Hidden states and output weights of student and teacher."""

    student_NH: Tensor
    student_VH: Tensor
    teacher_NH: Tensor
    teacher_VH: Tensor

    def gradients(self, loss: Tensor) -> Answer:
        """The loss with its gradients for what the setting lets learn."""
        wanted = [one for one in (self.student_NH, self.student_VH) if one.requires_grad]
        return loss.detach(), *torch.autograd.grad(loss, wanted)


def head(setting: Setting) -> Head:
    """The inputs of a setting; only a trainable head's weight wants a gradient."""
    student_NH, student_VH, teacher_NH, teacher_VH = _drawn(getattr(torch, setting["dtype"]))
    rows = int(setting["rows"])
    times = max(1, rows // DRAWN)
    return Head(
        student_NH[:rows].repeat(times, 1).requires_grad_(),
        student_VH.requires_grad_(setting["head"] == "trainable"),
        teacher_NH[:rows].repeat(times, 1),
        teacher_VH,
    )


@cache
def _drawn(dtype: torch.dtype) -> tuple[Tensor, ...]:
    seeded = torch.Generator().manual_seed(3)
    # At these scales the likeliest of the 49,152 tokens has a few per cent.
    sizes = ((DRAWN, 1.0), (VOCABULARY, 0.1), (DRAWN, 1.0), (VOCABULARY, 0.1))
    return tuple((torch.randn(count, HIDDEN, generator=seeded) * scale).to(dtype) for count, scale in sizes)


def kept(teacher_NH: Tensor, teacher_VH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What a cache holds of the teacher: ids (N, K), their log-probabilities, and the log of the mass of the rest."""
    blocks = []
    for rows_NH in teacher_NH.split(DRAWN):
        log_NV = (rows_NH @ teacher_VH.T).float().log_softmax(-1)
        log_NK, ids_NK = log_NV.topk(TOP, dim=-1)
        blocks.append((ids_NK, log_NK, log_NV.scatter(1, ids_NK, -torch.inf).logsumexp(-1)))
    ids_NK, log_NK, tail_N = (torch.cat(column) for column in zip(*blocks, strict=True))
    return ids_NK, log_NK, tail_N


def relative_error(answer: Answer, setting: Setting) -> float:
    """The largest of |got - float64| / |float64| over the loss and its gradients, each as a whole."""
    loss, grad_NH, *grad_VH = answer
    true_loss, true_NH, true_VH = _float64(setting)
    times = len(grad_NH) // DRAWN
    pairs = [(loss, true_loss), (grad_NH * times, true_NH.repeat(times, 1))]
    pairs += [(grad[::EVERY], true_VH) for grad in grad_VH]
    return max(float((got.double() - true).norm() / true.norm()) for got, true in pairs)


def _float64(setting: Setting) -> Answer:
    """The answer at DRAWN rows by the plain formula in float64, computed once and kept."""
    beta, dtype, teacher = float(setting["beta"]), setting["dtype"], setting["teacher"]
    file = FILES / f"float64-{beta}-{teacher}-{dtype}.pt"
    if not file.is_file():
        inputs = head({"rows": str(DRAWN), "dtype": dtype, "head": "frozen"})
        student_NH, student_VH = (one.detach().double().requires_grad_() for one in inputs[:2])
        q_NJ = (student_NH @ student_VH.T).log_softmax(-1)
        if teacher == "cached":
            ids_NK, log_NK, tail_N = kept(inputs.teacher_NH, inputs.teacher_VH)
            p_NJ = torch.cat([log_NK, tail_N[:, None]], dim=1).double().log_softmax(-1)
            rest_N1 = q_NJ.scatter(1, ids_NK, -torch.inf).logsumexp(-1, keepdim=True)
            q_NJ = torch.cat([q_NJ.gather(1, ids_NK), rest_N1], dim=1)
        else:
            p_NJ = (inputs.teacher_NH.double() @ inputs.teacher_VH.double().T).log_softmax(-1)
        loss = plain_divergence(p_NJ, q_NJ, beta=beta).mean()
        grad_NH, grad_VH = torch.autograd.grad(loss, (student_NH, student_VH))
        beside = file.with_suffix(f".{os.getpid()}")
        torch.save((loss.detach(), grad_NH, grad_VH[::EVERY].clone()), beside)
        beside.replace(file)
    return torch.load(file)


def plain_divergence(p_NJ: Tensor, q_NJ: Tensor, *, beta: float) -> Tensor:
    """Forward KL (beta 0), reverse KL (beta 1), else beta KL(p | m) + (1 - beta) KL(q | m), m = beta p + (1 - beta) q;
    nats per row, of log-probabilities, not divided by beta (1 - beta): as TRL and Liger have it."""
    if beta == 0:
        return (p_NJ.exp() * (p_NJ - q_NJ)).sum(-1)
    if beta == 1:
        return (q_NJ.exp() * (q_NJ - p_NJ)).sum(-1)
    share = torch.tensor(beta, dtype=q_NJ.dtype)
    m_NJ = torch.logaddexp(p_NJ + share.log(), q_NJ + (1 - share).log())
    return (beta * p_NJ.exp() * (p_NJ - m_NJ) + (1 - beta) * q_NJ.exp() * (q_NJ - m_NJ)).sum(-1)


class ChatRow(NamedTuple):
    """A chat of one question and its reply; the counts are tokens, with the template and the end of turn."""

    prompt: str
    reply: str
    prompt_tokens: int
    reply_tokens: int


def batches(setting: Setting) -> list[list[ChatRow]]:
    """The rows of the warm-up step and of each timed one."""
    size, steps = int(setting["batch"]), int(setting["steps"])
    with (FILES / "chats.jsonl").open(encoding="utf-8") as lines:
        rows = [ChatRow(**json.loads(line)) for line in lines]
    # A short first batch sets up the optimizer and the libraries' kernels at little cost.
    timed = [rows[at * size : (at + 1) * size] for at in range(steps)]
    return [sorted(rows[steps * size :], key=lambda row: row.reply_tokens)[:size], *timed]


class Choices(NamedTuple):
    """A question of any length and continuations to choose among."""

    prompt: str
    choices: tuple[str, ...]


def questions(setting: Setting) -> list[Choices]:
    """So many of the questions as the setting says."""
    with (FILES / "questions.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [Choices(row["prompt"], tuple(row["choices"])) for row in rows[: int(setting["prompts"])]]


def templated(tokenizer: Any, prompt: str) -> str:
    """The question in the model's chat template, up to where the reply begins."""
    turns = [{"role": "user", "content": prompt}]
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


def generated(model: Any, tokenizer: Any, prompts: Sequence[str], *, tokens: int) -> list[str]:
    """Greedy replies to one batch of prompts, padded."""
    batch = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    with torch.inference_mode():
        ids_BT = model.generate(**batch, max_new_tokens=tokens, do_sample=False)
    said_BT = ids_BT[:, batch["input_ids"].shape[1] :]
    return [text.strip() for text in tokenizer.batch_decode(said_BT, skip_special_tokens=True)]


def other_texts(texts: Sequence[str], setting: Setting) -> float:
    """The share of the first replies that are not what `generate` says in float32 to each prompt alone."""
    file = FILES / f"texts-{setting['reply']}.json"
    if not file.is_file():
        model, tokenizer = _opened(torch.float32)
        prompts = [templated(tokenizer, row.prompt) for row in questions({"prompts": str(CHECKED)})]
        tokens = int(setting["reply"])
        alone = [text for one in prompts for text in generated(model, tokenizer, [one], tokens=tokens)]
        file.write_text(json.dumps(alone), encoding="utf-8")
    alone = json.loads(file.read_text(encoding="utf-8"))
    pairs = list(zip(texts[: len(alone)], alone[: len(texts)], strict=True))
    return sum(one.strip() != other for one, other in pairs) / len(pairs)


def scoring_error(totals: Sequence[float], setting: Setting) -> float:
    """|got - float64| / |float64| over the scores of the first questions."""
    file = FILES / "scores.json"
    if not file.is_file():
        model, tokenizer = _opened(torch.float64)
        scores = []
        for row in questions({"prompts": str(CHECKED)}):
            asked = tokenizer.encode(templated(tokenizer, row.prompt), add_special_tokens=False)
            for choice in row.choices:
                said = tokenizer.encode(choice, add_special_tokens=False)
                with torch.inference_mode():
                    logits_TV = model(torch.tensor([asked + said])).logits[0, len(asked) - 1 : -1]
                scores.append(float(logits_TV.log_softmax(-1).gather(1, torch.tensor(said)[:, None]).sum()))
        file.write_text(json.dumps(scores), encoding="utf-8")
    true_N = torch.tensor(json.loads(file.read_text(encoding="utf-8")), dtype=torch.float64)[: len(totals)]
    got_N = torch.tensor(totals[: len(true_N)], dtype=torch.float64)
    return float((got_N - true_N).norm() / true_N.norm())


def _opened(dtype: torch.dtype) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = FILES / "smollm2"
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval(), tokenizer


def padded(rows: list[tuple[list[int], list[int]]], *, pad: int) -> dict[str, Any]:
    """Prompts and replies as a plain padded batch with labels on the replies."""
    width = max(len(prompt) + len(reply) for prompt, reply in rows)
    ids_BT = torch.full((len(rows), width), pad)
    labels_BT = torch.full((len(rows), width), -100)
    seen_BT = torch.zeros((len(rows), width), dtype=torch.long)
    for b, (prompt, reply) in enumerate(rows):
        end = len(prompt) + len(reply)
        ids_BT[b, :end] = torch.tensor(prompt + reply)
        labels_BT[b, len(prompt) : end] = torch.tensor(reply)
        seen_BT[b, :end] = 1
    return {"input_ids": ids_BT, "labels": labels_BT, "attention_mask": seen_BT}
