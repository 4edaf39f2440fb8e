"""How hostile a comment is that answers nothing: by a net that read 160,000 of them, and a lexicon of moods."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from limbeck.judges.cues import plain

if TYPE_CHECKING:
    from torch import Tensor, nn

# B comments, W windows of WINDOW words, D dimensions, L labels
NET_FILE = Path(__file__).with_name("comments.safetensors")
WORDS_FILE = Path(__file__).with_name("comments_words.txt")
LABELS = ("toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate")
# Those that our toxicity is about: hate, harassment, threats, humiliation.
HEARD = [LABELS.index(label) for label in ("threat", "insult", "identity_hate")]
WINDOW = 100
BETWEEN_WORDS = re.compile(r"[\s!\"#$%&()*+,\-./:;<=>?@\[\\\]^_`{|}~]+")


class CommentNet(NamedTuple):
    """The recurrent net of toxic-comment-classifier 0.3.0 (MIT, Md Irfan Ali), its weights in float16; `known` are the
    ids of its words, 0 is none."""

    known: Mapping[str, int]
    embedding: Tensor
    recurrent: nn.LSTM
    hidden: tuple[Tensor, Tensor]
    output: tuple[Tensor, Tensor]

    @classmethod
    def read(cls, weights: Path = NET_FILE, words: Path = WORDS_FILE) -> Self:
        """The net that ships."""
        from safetensors.torch import load_file
        from torch import nn

        stored = {name: value.float() for name, value in load_file(weights).items()}
        width, quarter = stored["embedding"].shape[1], stored["weight_hh_l0"].shape[1]
        recurrent = nn.LSTM(width, quarter, batch_first=True, bidirectional=True)
        recurrent.load_state_dict({name: stored[name] for name in recurrent.state_dict()})
        known = {word: at for at, word in enumerate(words.read_text(encoding="utf-8").splitlines(), start=1)}
        layers = ((stored[f"{name}.weight"], stored[f"{name}.bias"]) for name in ("hidden", "output"))
        return cls(known, stored["embedding"], recurrent, *layers)

    def hostility(self, comments: Sequence[str]) -> NDArray[np.float64]:
        """The mean logit of HEARD in the window of a comment where it is highest, shape (B,); words that it does not
        know are left out."""
        import torch

        words = (BETWEEN_WORDS.split(comment.lower()) for comment in comments)
        ids = [[self.known[word] for word in one if word in self.known] for one in words]
        windows = [[one[at : at + WINDOW] for at in range(0, len(one), WINDOW)] or [[]] for one in ids]
        with torch.inference_mode():
            heard = iter(self._heard([window for one in windows for window in one]).tolist())
        return np.array([max(next(heard) for _ in one) for one in windows])

    def _heard(self, windows: Sequence[Sequence[int]]) -> Tensor:
        import torch

        # It was fitted on comments that end where the window does.
        ids_WT = torch.tensor([[0] * (WINDOW - len(window)) + list(window) for window in windows])
        said_WD = self.recurrent(self.embedding[ids_WT])[0].amax(1)
        (weight, bias), (out_weight, out_bias) = self.hidden, self.output
        logits_WL = (said_WD @ weight + bias).relu() @ out_weight + out_bias
        return logits_WL[:, HEARD].mean(1)


@cache
def _net() -> CommentNet:
    return CommentNet.read()


@cache
def _moods() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


class Spoken(NamedTuple):
    """Three opinions on a comment, each over its spread, with an equal say: such weights do about as well as fitted
    ones, and are not fitted to the wrong texts (Dawes 1979). `slope` and `bias` turn their sum to log-odds."""

    spread: NDArray[np.float64]
    slope: float
    bias: float

    @classmethod
    def of(cls, fitted: Mapping[str, Any]) -> Self:
        """As a fit stored it."""
        return cls(np.array(fitted["spread"]), fitted["slope"], fitted["bias"])

    def odds(self, head_B: NDArray[np.float64], comments: Sequence[str]) -> NDArray[np.float64]:
        """Log-odds that comments are toxic, shape (B,), given those of the head of toxicity."""
        return self.slope * (opinions(head_B, comments) / self.spread).sum(1) + self.bias


def opinions(head_B: NDArray[np.float64], comments: Sequence[str]) -> NDArray[np.float64]:
    """What the head, the net and the lexicon of moods (VADER; Hutto and Gilbert 2014) say, shape (B, 3)."""
    texts = [plain(one) for one in comments]
    gloom_B = [-_moods().polarity_scores(text)["compound"] for text in texts]
    return np.stack([head_B, _net().hostility(texts), gloom_B], axis=1)
