"""What the works read: the model's folder, chats, files of lessons and small random models, made once in .work/."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from limbeck.files import replacing
from limbeck.models.chat import prompt_ids, reply_ids
from limbeck.models.references import hide_loading_bars, load_tokenizer, resolve
from limbeck.records import Message
from table import CHOICE_TOKENS, CHOICES
from work import FILES

CHATS = 64
# Medians and spreads of chats, in tokens; the cap is on a prompt and on a reply each.
PROMPT_MEDIAN, PROMPT_SIGMA, REPLY_MEDIAN, REPLY_SIGMA, CAP = 37, 0.35, 60, 0.7, 220
# Questions with choices, and the median and spread of their tokens.
QUESTIONS, QUESTION_LENGTHS = 256, (80, 0.6)
# So many chats are drawn for a file of lessons, and told apart by a number.
DISTINCT = 1_000
# SmolLM2's own without its system prompt, whose words the smallest vocabulary lacks.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Chats:
    """Chats of single-token words, so that every length is exact."""

    def __init__(self) -> None:
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(resolve("smollm2-135m-instruct"))
        # Also where it comes first, without a space, a word is one token that the smallest vocabulary has.
        common = range(1_000, 30_000)
        spaced = [self.tokenizer.decode([token]) for token in common]
        words = [word[1:] for word in spaced if re.fullmatch(" [a-z]{3,}", word)]
        first = [reply_ids(self.tokenizer, word, ends=False) for word in words]
        self.words = [word for word, ids in zip(words, first, strict=True) if len(ids) == 1 and ids[0] in common]
        self.frame = len(self.prompt(""))

    def prompt(self, text: str) -> list[int]:
        """The token ids of a prompt in the model's chat template."""
        return prompt_ids(self.tokenizer, [Message.model_construct(role="user", content=text)])

    def drawn(
        self,
        count: int,
        *,
        seed: int,
        reply_tokens: int | None = None,
        prompt: tuple[float, float] = (PROMPT_MEDIAN, PROMPT_SIGMA),
    ) -> Iterator[dict[str, Any]]:
        """Seeded chats: lengths log-normal, or replies of a given length."""
        lengths, word = np.random.default_rng(seed), random.Random(seed)
        for _ in range(count):
            tokens, reply = (
                min(CAP, round(lengths.lognormal(np.log(median), sigma)))
                for median, sigma in (prompt, (REPLY_MEDIAN, REPLY_SIGMA))
            )
            asked = word.choices(self.words, k=max(1, tokens - self.frame))
            # The end of turn is one of the reply's tokens.
            said = word.choices(self.words, k=max(1, (reply_tokens or reply) - 1))
            yield {
                "prompt": " ".join(asked),
                "reply": " ".join(said),
                "prompt_tokens": self.frame + len(asked),
                "reply_tokens": len(said) + 1,
            }


def chats() -> None:
    """The model's folder and the chats of the training step."""
    FILES.mkdir(exist_ok=True)
    model = FILES / "smollm2"
    if not model.exists():
        location = resolve("smollm2-135m-instruct").location
        model.unlink(missing_ok=True)
        model.symlink_to(location, target_is_directory=True)
    file = FILES / "chats.jsonl"
    if file.exists():
        return
    made = Chats()
    with replacing(file) as stream:
        for chat in made.drawn(CHATS, seed=5):
            if len(made.prompt(str(chat["prompt"]))) != chat["prompt_tokens"]:
                raise AssertionError(f"the words do not make {chat['prompt_tokens']} tokens: {chat['prompt']}")
            stream.write(json.dumps(chat).encode() + b"\n")


def questions() -> None:
    """Questions of mixed lengths, each with continuations of as many tokens to choose among."""
    file = FILES / "questions.jsonl"
    if file.exists():
        return
    chats = Chats().drawn(QUESTIONS, seed=7, reply_tokens=CHOICES * CHOICE_TOKENS + 1, prompt=QUESTION_LENGTHS)
    with replacing(file) as stream:
        for chat in chats:
            words = chat["reply"].split()
            choices = [" ".join(words[at : at + CHOICE_TOKENS]) for at in range(0, len(words), CHOICE_TOKENS)]
            stream.write(json.dumps({"prompt": chat["prompt"], "choices": choices}).encode() + b"\n")


def lessons(count: int, *, reply_tokens: int) -> None:
    """A file of lessons with replies of one length, each with a prompt of its own."""
    file = FILES / f"lessons-{count}-{reply_tokens}.jsonl"
    if file.exists():
        return
    distinct = list(Chats().drawn(min(count, DISTINCT), reply_tokens=reply_tokens, seed=6))
    with replacing(file) as stream:
        for number in range(count):
            chat = distinct[number % len(distinct)]
            row = {"prompt": f"{chat['prompt']} {number}", "completion": chat["reply"]}
            stream.write(json.dumps(row).encode() + b"\n")


def random_model(vocabulary: int) -> None:
    """Four random layers under SmolLM2's tokenizer, so that what grows is not hidden behind the backbone."""
    folder = FILES / f"random-{vocabulary}"
    if (folder / "tokenizer.json").exists():
        return
    hide_loading_bars()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=2_048,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer = load_tokenizer(resolve("smollm2-135m-instruct"))
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
