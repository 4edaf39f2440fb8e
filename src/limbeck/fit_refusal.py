"""Fits the head of the refusal judge on the labelled examples: `python -m limbeck.fit_refusal`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.judges.refusal import HEAD_FILE, KINDS, NONE, features, kinds_of
from limbeck.protocols import Encoder, Exchange

# B examples, F features, K kinds of refusal
EXAMPLES = HEAD_FILE.with_name("examples")
STRENGTHS = (1.0, 3.0, 10.0)  # inverse regularisation, in scikit-learn's sense
FOLDS = 10
CALIBRATION_BINS = 10
DIMENSIONS = 384  # of one embedding
# Spread of all traits together against that of one embedding; 2 beat 1 and 3 in cross-validation.
TRAITS_SAY = 2.0
LEAST_SPREAD = 1e-6  # standard deviation; live dimensions of an embedding have about 0.05
EMBEDDINGS = 3  # opening, whole, ending: the last blocks of the features


def main() -> None:
    """Write refusal_head.json and print how well it does on prompts it has not seen."""
    from limbeck.models.encoder import ModelTools

    fitted = fit(labelled(), ModelTools().encoder())
    HEAD_FILE.write_text(json.dumps(fitted, indent=None) + "\n", encoding="utf-8")
    print(json.dumps(fitted["cross_validated"], indent=2))


def labelled() -> list[dict[str, str]]:
    """All labelled examples that ship: rows of prompt, reply, refused."""
    files = sorted(EXAMPLES.glob("refusal*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines() if line]


def fit(rows: Sequence[dict[str, str]], encoder: Encoder) -> dict[str, Any]:
    """The head as it is stored, with its cross-validated figures; no prompt is in two folds."""
    exchanges = [Exchange(str(number), row["prompt"], row["reply"]) for number, row in enumerate(rows)]
    features_BF = features(exchanges, encoder)
    kinds_B = np.array([KINDS.index(row["refused"]) for row in rows])
    prompts = [row["prompt"] for row in rows]

    held_out = {strength: held_out_logits(features_BF, kinds_B, prompts, strength) for strength in STRENGTHS}
    strength = min(STRENGTHS, key=lambda one: log_loss(held_out[one] / temperature(held_out[one], kinds_B), kinds_B))
    cooled = temperature(held_out[strength], kinds_B)
    weights_KF, bias_K = regression(features_BF, kinds_B, strength)
    return {
        "kinds": list(KINDS),
        "cross_validated": {"strength": strength, "temperature": cooled}
        | figures(held_out[strength] / cooled, kinds_B, prompts),
        "bias": rounded(bias_K / cooled),
        "weights": [rounded(weights_F / cooled) for weights_F in weights_KF],
    }


def regression(
    features_BF: NDArray[np.float64], kinds_B: NDArray[np.int64], strength: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights (K, F) and bias (K,) on raw features; inside, each embedding has the same total variance."""
    from sklearn.linear_model import LogisticRegression

    mean_F, spread_F = features_BF.mean(axis=0), features_BF.std(axis=0)
    blocks = [features_BF.shape[1] - EMBEDDINGS * DIMENSIONS, *[DIMENSIONS] * EMBEDDINGS]
    says = [TRAITS_SAY, *[1.0] * EMBEDDINGS]
    scale_F = np.concatenate([np.full(size, say / np.sqrt(size)) for say, size in zip(says, blocks, strict=True)])
    # What hardly varies among the examples gets no say: MiniLM has dimensions that are 0 but for rounding.
    varies_F = spread_F > LEAST_SPREAD
    scale_F = np.where(varies_F, scale_F / np.where(varies_F, spread_F, 1), 0)
    model = LogisticRegression(C=strength, max_iter=2000).fit((features_BF - mean_F) * scale_F, kinds_B)
    weights_KF = model.coef_ * scale_F
    return weights_KF, model.intercept_ - weights_KF @ mean_F


def held_out_logits(
    features_BF: NDArray[np.float64], kinds_B: NDArray[np.int64], prompts: Sequence[str], strength: float
) -> NDArray[np.float64]:
    """Logits (B, K) of each example under a head that has not seen its prompt."""
    from sklearn.model_selection import GroupKFold

    logits_BK = np.zeros((len(kinds_B), len(KINDS)))
    for seen, unseen in GroupKFold(FOLDS, shuffle=True, random_state=0).split(features_BF, groups=prompts):
        weights_KF, bias_K = regression(features_BF[seen], kinds_B[seen], strength)
        logits_BK[unseen] = features_BF[unseen] @ weights_KF.T + bias_K
    return logits_BK


def temperature(logits_BK: NDArray[np.float64], kinds_B: NDArray[np.int64]) -> float:
    """What the logits have to be divided by so that the probabilities hold (Guo et al. 2017, arXiv:1706.04599)."""
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda heat: log_loss(logits_BK / np.exp(heat), kinds_B), bounds=(-1.5, 1.5), method="bounded"
    )
    return round(float(np.exp(found.x)), 3)


def log_loss(logits_BK: NDArray[np.float64], kinds_B: NDArray[np.int64]) -> float:
    """Mean -log P(true kind), nats per example."""
    total_B = np.logaddexp.reduce(logits_BK, axis=1)
    return float(np.mean(total_B - logits_BK[np.arange(len(kinds_B)), kinds_B]))


def figures(logits_BK: NDArray[np.float64], kinds_B: NDArray[np.int64], prompts: Sequence[str]) -> dict[str, Any]:
    """Accuracy of the three kinds, of refused against not, confusion (true kind by judged kind), calibration error."""
    probabilities_BK = np.exp(logits_BK - np.logaddexp.reduce(logits_BK, axis=1, keepdims=True))
    said_B = kinds_of(probabilities_BK)
    confusion = [[int(np.sum((kinds_B == true) & (said_B == said))) for said in range(3)] for true in range(3)]
    return {
        "n": len(kinds_B),
        "prompts": len(set(prompts)),
        "folds": FOLDS,
        "accuracy": round(float(np.mean(said_B == kinds_B)), 4),
        "accuracy_refused_or_not": round(float(np.mean((said_B == NONE) == (kinds_B == NONE))), 4),
        "log_loss_nats": round(log_loss(logits_BK, kinds_B), 4),
        "calibration_error": round(calibration_error(1 - probabilities_BK[:, NONE], kinds_B != NONE), 4),
        "confusion": confusion,
    }


def calibration_error(stated_B: NDArray[np.float64], happened_B: NDArray[np.bool_]) -> float:
    """Expected calibration error in [0, 1]: |stated - observed| over ten equal bins, weighed by their examples."""
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    edges[-1] = np.inf
    return float(sum(_gaps(stated_B, happened_B, edges))) / len(stated_B)


def _gaps(stated_B: NDArray[np.float64], happened_B: NDArray[np.bool_], edges: NDArray[np.float64]) -> Iterator[float]:
    for low, high in pairwise(edges):
        inside_B = (stated_B >= low) & (stated_B < high)
        yield abs(float(stated_B[inside_B].sum()) - float(happened_B[inside_B].sum()))


def rounded(values: NDArray[np.float64]) -> list[float]:
    """Six significant digits, so that the file stays small and a second fit writes the same one."""
    return [float(f"{value:.6g}") for value in values]


if __name__ == "__main__":
    main()
