"""Failures that resemble one another."""

from __future__ import annotations

from collections.abc import Sequence

from limbeck.protocols import Encoder

# Two failures are alike when the cosine distance of their prompts' embeddings stays below this.
ALIKE_DISTANCE = 0.6


def clusters(texts: Sequence[str], encoder: Encoder) -> list[int]:
    """A cluster number for each text, by average-linkage clustering of its embedding."""
    from sklearn.cluster import AgglomerativeClustering

    if len(texts) < 2:
        return [0] * len(texts)
    grouping = AgglomerativeClustering(
        n_clusters=None, metric="cosine", linkage="average", distance_threshold=ALIKE_DISTANCE
    )
    return [int(number) for number in grouping.fit_predict(encoder.encode(texts))]
