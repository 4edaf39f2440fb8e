"""A chat as token ids, by the model's own template."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from limbeck.errors import InputError
from limbeck.models.spec import ModelSpec
from limbeck.records import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Unshown(InputError):
    """The chat template writes the turn that is to be judged otherwise than it is, or leaves it out."""


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    *,
    closed: bool = False,
    template: Mapping[str, Any] | None = None,
) -> list[int]:
    """The tokens of a chat up to where the assistant's reply begins, or goes on where the last turn is its own and not
    `closed`; `template` are arguments of the chat template.

    Raises InputError where the model's chat template has no place for one of the turns, Unshown where it does not show
    the turn that closes the chat."""
    from jinja2 import TemplateError

    begun = messages[-1].content if messages[-1].role == "assistant" and not closed else ""
    turns = [message.model_dump() for message in (messages[:-1] if begun else messages)]
    judged = messages[-1].content.strip() if closed else ""
    try:
        text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **(template or {})))
        if judged not in text:
            text = _in_parts(tokenizer, messages, template or {})
    except TemplateError as error:
        text = _in_parts(tokenizer, messages, template or {}) if judged else ""
        if not text:
            roles = ", ".join(message.role for message in messages)
            raise InputError(
                f"the chat template of {tokenizer.name_or_path} does not take '{messages[-1].content[:40]}…' with "
                f"turns of {roles} ({error}); use turns that it knows, or another model"
            ) from error
    if judged not in text:
        raise Unshown(f"the chat template of {tokenizer.name_or_path} does not show what is to be judged as it is")
    return list(tokenizer.encode(text + begun, add_special_tokens=False, verbose=False))


def _in_parts(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], template: Mapping[str, Any]) -> str:
    """The chat with each turn's text as a part of it, as models that see pictures take it (Llama Guard 3 1B and 4);
    nothing where the template takes plain texts alone."""
    from jinja2 import TemplateError

    turns = [{"role": turn.role, "content": [{"type": "text", "text": turn.content}]} for turn in messages]
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **template))
    except (TemplateError, TypeError):  # it adds the turns up, or looks for words in them
        return ""


def template_opens(tokenizer: PreTrainedTokenizerBase, tag: str) -> bool:
    """Whether the chat template begins every reply with this tag."""
    turn = [{"role": "user", "content": "question"}]
    text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    return bool(str(text).rstrip().endswith(tag))


def text_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """The tokens of the last turn's bare text; without turns the one that a text begins with, as lm-evaluation-harness
    has it."""
    if messages:
        return list(tokenizer.encode(messages[-1].content, add_special_tokens=False, verbose=False))
    first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if not isinstance(first, int):
        raise ValueError(f"tokenizer {tokenizer.name_or_path} has no token that begins a text")
    return [first]


def reply_ids(tokenizer: PreTrainedTokenizerBase, reply: str, *, ends: bool) -> list[int]:
    """The tokens of a reply; the end of turn is one of them where the reply is complete.

    The end of turn is added by its id, so a tokenizer that pads with the same id loses nothing.
    """
    tokens = list(tokenizer.encode(reply, add_special_tokens=False, verbose=False))
    return [*tokens, end_of_turn(tokenizer)] if ends else tokens


def may_exceed(messages: Sequence[Message], replies: Sequence[str], *, context: int) -> bool:
    """Whether a chat with one of the replies has to be encoded to know if a context holds it: a token is no less than a
    byte, and a template is not half of the context."""
    bytes_asked = sum(len(message.content.encode()) for message in messages)
    return bytes_asked + max((len(reply.encode()) for reply in replies), default=0) > context // 2


def check_room(where: str, messages: Sequence[Message], *, prompt: int, reply: int, context: int, of: str) -> None:
    """Raises InputError where a chat of so many tokens and its reply exceed the context `of` a model."""
    if prompt + reply > context:
        raise InputError(
            f"{where}: '{messages[-1].content[:40]}…' has {prompt} tokens; with {reply} for the reply that "
            f"exceeds the {context} of {of}; shorten it or leave it out"
        )


def vocabulary_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of which text each id stands for; two models with the same one can share distributions."""
    entries = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


def check_same_vocabulary(teacher: ModelSpec, vocabulary: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises InputError where a teacher's ids, of the vocabulary with this hash, mean other tokens than those of the
    student's tokenizer."""
    if vocabulary != vocabulary_hash(tokenizer):
        raise InputError(
            f"teacher '{teacher.name or teacher.kind}' has another vocabulary than the student: its distributions mean "
            "other tokens; name a teacher with the same tokenizer, or put the loss cross_tokenizer in the place of "
            "those that need a distribution"
        )


@lru_cache(maxsize=16)
def ids_of_answer(tokenizer: PreTrainedTokenizerBase, answer: str) -> tuple[int, ...]:
    """The ids that are this answer as a whole, in its case or in small letters, behind a space or not."""
    spellings = (space + word for space in ("", " ") for word in (answer, answer.lower()))
    spelt = (tokenizer.encode(one, add_special_tokens=False) for one in spellings)
    return tuple(sorted({ids[0] for ids in spelt if len(ids) == 1}))


@lru_cache(maxsize=16)
def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that ends a reply: the special token that the chat template puts behind one, else the tokenizer's eos."""
    from jinja2 import TemplateError

    chat = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
    try:
        _, shown, behind = str(tokenizer.apply_chat_template(chat, tokenize=False)).rpartition("answer")
    except TemplateError:  # a guard's that wants arguments
        shown = behind = ""
    behind = behind if shown else ""
    ids = tokenizer.encode(behind, add_special_tokens=False) if behind else []
    if ids and ids[0] in tokenizer.all_special_ids:
        return int(ids[0])
    end = tokenizer.eos_token_id
    if not isinstance(end, int):
        raise ValueError(f"tokenizer {tokenizer.name_or_path} has no eos token")
    return end
