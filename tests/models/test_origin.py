"""Whose weights a teacher's are, as far as one can see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from limbeck.models.context import PrivilegedContext
from limbeck.models.endpoint import Endpoint
from limbeck.models.local import Local
from limbeck.models.origin import told, trace, traced_here
from limbeck.models.recorded import Recorded
from limbeck.models.spec import ModelSpec
from limbeck.records import Origin
from limbeck.workspace import StageStore


@pytest.fixture
def traced(tiny_model: Path, store: StageStore) -> Any:
    """The origin of a teacher of a student that is the tiny model."""

    def trace_one(teacher: ModelSpec) -> Origin:
        (found,) = trace(Local(name="base", model=str(tiny_model)), (teacher,), store=store)
        assert [found] == list(traced_here(Local(name="base", model=str(tiny_model)), (teacher,)))
        return found

    return trace_one


def changed(model: Path, folder: Path, noise: float) -> str:
    """The model with noise of so many times its weights' spread added to them."""
    folder.mkdir()
    for file in model.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
            continue
        torch.manual_seed(1)
        weights = {name: one + noise * one.std() * torch.randn_like(one) for name, one in load_file(file).items()}
        save_file(weights, folder / file.name, metadata={"format": "pt"})
    return str(folder)


def test_the_students_own_weights_have_no_trait_of_others_and_those_of_a_policy_by_design(
    traced: Any, tiny_model: Path
) -> None:
    plain = traced(Local(name="t", model=str(tiny_model)))
    informed = traced(PrivilegedContext(name="t", model=str(tiny_model)))
    assert (plain.relation, plain.why) == ("itself", "the student's own weights")
    assert (informed.relation, informed.why) == ("told", "the student's own weights, told a policy")
    assert told(plain) == "t: the student's own weights; it has no trait that the student lacks"
    assert told(informed).endswith(
        "told a policy; what that makes of them can pass through any of its replies, by design"
    )


def test_a_fine_tuned_relative_is_kin_and_one_trained_apart_is_not(
    traced: Any, tiny_model: Path, tmp_path: Path
) -> None:
    tuned = traced(Local(name="t", model=changed(tiny_model, tmp_path / "tuned", 0.1)))
    apart = traced(Local(name="t", model=changed(tiny_model, tmp_path / "apart", 30.0)))
    # Noise of a tenth: the cosine is 1 / sqrt(1 + 0.01) = 0.995.
    assert (tuned.relation, tuned.cosine) == ("kin", pytest.approx(0.995, abs=0.003))
    assert "its traits can pass through lessons that say nothing of them" in told(tuned)
    assert apart.relation == "apart" and abs(apart.cosine) < 0.2 and told(apart) == ""


def test_an_adapter_makes_kin_of_the_students_own_weights(traced: Any, tiny_model: Path, tmp_path: Path) -> None:
    found = traced(Local(name="t", model=str(tiny_model), adapter=tmp_path))
    assert (found.relation, found.why) == ("kin", "the student's own weights with an adapter")


def test_a_model_of_other_shapes_is_apart(traced: Any, wide_model: Path) -> None:
    found = traced(Local(name="t", model=str(wide_model)))
    assert (found.relation, found.cosine) == ("apart", None)


def test_what_shows_no_weights_is_unknown_unless_it_is_called_as_the_student_is(traced: Any, tiny_model: Path) -> None:
    away = {"name": "t", "base_url": "http://127.0.0.1:1/v1"}
    assert traced(Recorded(name="t")).relation == "unknown"
    assert traced(Endpoint(model="org/other", **away)).relation == "unknown"
    assert traced(Endpoint(model=f"org/{tiny_model.name}", **away)).relation == "kin"


def test_a_model_on_the_hub_is_not_fetched_for_a_check(tiny_model: Path) -> None:
    (found,) = traced_here(Local(name="base", model=str(tiny_model)), (Local(name="t", model="org/nowhere"),))
    assert (found.relation, found.why) == ("unknown", "a model is not on this disk yet")
