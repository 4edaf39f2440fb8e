"""What the teachers have in their context that the student does not see, named shortly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import shorten

from limbeck.models.context import PrivilegedContext
from limbeck.models.endpoint import Endpoint
from limbeck.models.spec import ModelSpec

POLICY_CHARACTERS = 60  # of a policy that are shown


def contexts(models: Sequence[ModelSpec]) -> Iterator[str]:
    """The policy's beginning and the number of worked examples of each model that has any."""
    for model in models:
        if isinstance(model, PrivilegedContext | Endpoint) and (model.policy or model.examples):
            said = []
            if model.policy:
                begins = shorten(model.policy, POLICY_CHARACTERS, placeholder=" …")
                said.append(f"the policy “{begins}” ({len(model.policy)} characters)")
            if count := len(model.examples) // 2:
                said.append(f"{count} worked example{'s' * (count > 1)}")
            yield f"{model.name or f'soft labels ({model.kind})'}: {', '.join(said)}"
