"""Models that stand in for guards: one in this process whose answer is given, and a server."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from limbeck.records import Message, Request

CONTEXT = 8192
# Logit of the answers beside 0 for every other token: nothing else is ever said.
SURE = 40.0


@pytest.fixture
def forced(tiny_model: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A model in this process, with a chat template, that says the likeliest of some answers whatever it is asked.

    Each answer is one token, and its number what is added to its log-odds.
    """

    def made(template: str | None, answers: Mapping[str, float]) -> dict[str, Any]:
        import torch
        from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

        tokenizer = AutoTokenizer.from_pretrained(tiny_model)
        tokenizer.add_tokens(list(answers))
        tokenizer.chat_template = template
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
            num_key_value_heads=1, max_position_embeddings=CONTEXT, bos_token_id=None, eos_token_id=0,
        )  # fmt: skip
        model = LlamaForCausalLM(config)
        end = tokenizer.eos_token_id
        ids = {tokenizer.convert_tokens_to_ids(answer): more for answer, more in answers.items()}
        with torch.no_grad():
            for weight in model.parameters():
                weight.zero_()
            model.model.norm.weight.fill_(8**-0.5)  # so that what is read of a unit vector is 1
            # What was said last is all that counts: an answer leads to the end, anything else to an answer.
            model.model.embed_tokens.weight[:, 0] = 1
            for answer, more in ids.items():
                model.model.embed_tokens.weight[answer] = torch.eye(8)[1]
                model.lm_head.weight[answer, 0] = SURE + more
            model.lm_head.weight[end, 1] = SURE
        folder = tmp_path / f"forced-{len(list(tmp_path.iterdir()))}"
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return {"kind": "local", "model": str(folder)}

    return made


@pytest.fixture
def written(tiny_model: Path) -> Callable[[Request, str | None], str]:
    """What a model in this process reads of a request, as text, where this is its chat template."""
    from transformers import AutoTokenizer

    from limbeck.models.chat import prompt_ids, text_ids

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)

    def text(request: Request, template: str | None) -> str:
        tokenizer.chat_template = template
        if request.form == "text":
            return str(tokenizer.decode(text_ids(tokenizer, request.messages)))
        ids = prompt_ids(tokenizer, request.messages, closed=bool(request.closed), template=request.template)
        return str(tokenizer.decode(ids))

    return text


class Posted(NamedTuple):
    """One request that the server got."""

    path: str
    body: dict[str, Any]

    @property
    def turns(self) -> tuple[Message, ...]:
        return tuple(Message.model_validate(turn) for turn in self.body["messages"])


# A status and a body, for each request.
Script = Callable[[Posted], tuple[int, Any]]


@contextmanager
def _served(script: Script) -> Iterator[tuple[str, list[Posted]]]:
    seen: list[Posted] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            seen.append(Posted(self.path, json.loads(self.rfile.read(int(self.headers["content-length"])))))
            status, body = script(seen[-1])
            said = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}/v1", seen
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


@pytest.fixture
def served() -> Callable[[Script], AbstractContextManager[tuple[str, list[Posted]]]]:
    """The address of a server that answers by a script, and what it was asked."""
    return _served
