"""What a run is said to take is what its stages are given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from limbeck.config import RunConfig
from limbeck.estimate import Engine, Stage, estimate
from limbeck.models.local import Local
from limbeck.pace import NotKnown
from limbeck.records import asked
from limbeck.training.student import AdapterSettings

# Two of a family: harmful and twin. 10 families are taught, one each is probe, validation and exam.
SPLITS = ("train",) * 10 + ("probe", "validation", "exam")


@pytest.fixture
def config(tiny_model: Path, tmp_path: Path) -> dict[str, Any]:
    """The settings of one round on 26 prompts, everything replied by the student's own base."""
    rows = [
        {"prompt": f"{number}{text}", "harm": "bias", "tier": tier, "family": str(number), "split": split}
        for number, split in enumerate(SPLITS)
        for text, tier in (("How?", "adversarial"), ("Why?", "safe"))
    ]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "rounds": 1,
        "student": {"model": str(tiny_model)},
        "curate": {"sources": [{"kind": "file", "path": str(tmp_path / "prompts.jsonl")}]},
        "teach": {"teachers": [{"kind": "local", "name": "t", "model": str(tiny_model)}], "max_tokens": 20},
        "train": {"epochs": 1, "batch_lessons": 5},
        "evaluate": {"dimensions": ["refusal"]},
        "answer": {"max_tokens": 8},
    }


def stages(config: dict[str, Any], **other: Any) -> dict[str, Stage]:
    return {stage.name: stage for stage in estimate(RunConfig.model_validate({**config, **other}))}


def test_items_and_tokens_to_write_are_those_of_the_prompts_in_their_splits(config: dict[str, Any]) -> None:
    found = stages(config)
    # 20 prompts are asked of the teacher, 10 harmful ones of the student; 20 tokens each.
    assert (found["round 0: teach"].cost.items, found["round 0: teach"].cost.written) == (30, 600)
    assert found["round 0: score"].cost.items == found["round 0: train"].cost.items == 20
    # Two validation prompts at four strengths, 24 tokens each.
    assert (found["strength"].cost.items, found["strength"].cost.written) == (8, 192)
    # Base, filtered_sft and student: two prompts, a reply of 8 tokens and a decision to each.
    assert (found["exam"].cost.items, found["exam"].cost.written) == (12, 48)
    assert list(found) == [
        "curate", "round 0: teach", "round 0: score", "round 0: train", "strength", "filtered_sft", "exam"
    ]  # fmt: skip


def test_beginnings_are_short_and_the_baseline_does_not_learn_them(config: dict[str, Any]) -> None:
    few = {**config["teach"], "at_most": 4}
    found = stages(config, teach={**few, "beginnings": {"tokens": 5, "at_most": 3}})
    # Four whole replies, three beginnings, and the student's own ten.
    assert (found["round 0: teach"].cost.items, found["round 0: teach"].cost.written) == (17, 4 * 20 + 3 * 5 + 10 * 20)
    assert found["round 0: score"].cost.items == 7
    plain = stages(config, teach=few)
    assert found["filtered_sft"].cost.items == plain["filtered_sft"].cost.items
    assert found["round 0: train"].cost.read > plain["round 0: train"].cost.read


def test_refusals_of_the_house_ask_nobody_and_the_baseline_does_not_learn_them(config: dict[str, Any]) -> None:
    few = {**config["teach"], "at_most": 4}
    found, plain = stages(config, teach={**few, "refusals": {}}), stages(config, teach=few)
    for stage in ("round 0: teach", "round 0: score", "filtered_sft"):
        assert found[stage].cost == plain[stage].cost
    assert found["round 0: train"].cost.read > plain["round 0: train"].cost.read


def test_what_all_prompts_begin_with_is_read_once(tiny_model: Path) -> None:
    # '<turn>user 1How?<end> <turn>assistant ' has 24 bytes and turns; the first 6 are those of all, 18 are not.
    engine = Engine.of(Local(name="t", model=str(tiny_model)))
    one, two = (engine.replies([asked(f"{n}How?") for n in range(count)], 4).read for count in (2, 3))
    assert two - one == 18 and one == 6 + 2 * 18


def test_twice_the_epochs_take_twice_the_time_and_no_more_memory(config: dict[str, Any]) -> None:
    once = stages(config)["round 0: train"].cost
    twice = stages(config, train={"epochs": 2, "batch_lessons": 5})["round 0: train"].cost
    assert twice.seconds == pytest.approx(2 * once.seconds) and twice.memory == once.memory


def test_an_adapter_in_the_upper_layer_alone_is_cheaper(config: dict[str, Any]) -> None:
    student = {**config["student"], "adapter": {"first_layer": 1}}
    whole, upper = (stages(config, **other)["round 0: train"].cost for other in ({}, {"student": student}))
    assert upper.read == whole.read and upper.seconds < whole.seconds and upper.memory < whole.memory


def test_layers_that_are_computed_anew_take_longer(config: dict[str, Any]) -> None:
    once, anew = (
        stages(config, train={**config["train"], "gradient_checkpointing": on})["round 0: train"].cost
        for on in (False, True)
    )
    assert anew.seconds > once.seconds and anew.read == once.read


def test_a_recorded_teacher_costs_no_time_and_its_prompts_are_counted(config: dict[str, Any]) -> None:
    teach = {**config["teach"], "teachers": [{"kind": "recorded", "name": "r"}], "learn_to_avoid": False}
    losses = {"losses": ["cross_entropy"]}
    found = stages(config, teach=teach, train=losses)["round 0: teach"]
    assert (found.cost.items, found.cost.seconds, found.note) == (20, 0, "r (recorded) costs no time here")


def test_the_teachers_of_a_mixture_all_read_every_reply_and_are_in_memory_together(config: dict[str, Any]) -> None:
    alone = stages(config)["round 0: score"].cost
    (teacher,) = config["teach"]["teachers"]
    mixture = {"teachers": [teacher, {**teacher, "name": "u"}], "mixture": {"weights": {"t": 1, "u": 3}}}
    found = stages(config, teach={**config["teach"], **mixture})["round 0: score"].cost
    assert (found.items, found.read, found.memory) == (alone.items, 2 * alone.read, 2 * alone.memory)


def test_the_draws_for_risk_are_counted_and_not_drawn_again_in_a_later_round(config: dict[str, Any]) -> None:
    teach = {**config["teach"], "risk": {"teacher": "t", "draws": 3, "max_tokens": 5}}
    found = stages(config, teach=teach, rounds=2, train={"losses": ["decision"]})
    # Of 20 prompts to train on, two of the probe, and two of the exam; 5 tokens each.
    drawn = [found[name].cost for name in ("round 0: risk", "round 1: risk", "exam: risk")]
    assert [(cost.items, cost.written) for cost in drawn] == [(60, 300), (6, 30), (6, 30)]


def test_the_prompts_that_a_guard_is_asked_about_for_risk_are_counted_and_its_time_is_not(
    config: dict[str, Any],
) -> None:
    guard = {"kind": "guard", "judge": {"kind": "wild_guard", "model": {"kind": "scripted", "script": []}}}
    found = stages(config, teach={**config["teach"], "risk": guard}, train={"losses": ["decision"]})
    told = [found[name] for name in ("round 0: risk", "exam: risk")]
    assert [(stage.cost.items, stage.cost.seconds) for stage in told] == [(20, 0), (2, 0)]
    assert told[0].note == "what the guard wild_guard takes is not counted"


def test_a_later_round_asks_for_what_is_new_alone(config: dict[str, Any]) -> None:
    found = stages(config, rounds=2)
    # The two prompts of the probe, of which the harmful one is asked of the student too.
    assert (found["round 0: mine"].cost.items, found["round 1: teach"].cost.items) == (2, 3)


def test_the_sizes_are_those_of_the_weights(tiny_model: Path) -> None:
    sizes = Engine.of(Local(name="t", model=str(tiny_model)), AdapterSettings(rank=4, first_layer=1)).sizes
    # A layer: q and o 32 x 32, k and v 32 x 16 (two heads of 8), gate, up and down 32 x 64.
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64
    assert (sizes.layers, sizes.reached, sizes.head) == (2, 1, (32, 258))
    # Two norms a layer and one at the end; the head is the embedding.
    assert sizes.parameters == 2 * layer + 258 * 32 + 5 * 32
    assert sizes.adapter == 4 * (2 * 64 + 2 * 48 + 3 * 96)
    # Keys and values of two layers, two heads of 8.
    assert sizes.cached == 2 * 2 * 2 * 8


def test_an_adapter_above_the_last_layer_is_reached_by_no_gradient(tiny_model: Path) -> None:
    engine = Engine.of(Local(name="t", model=str(tiny_model)), AdapterSettings(first_layer=5))
    assert engine.sizes.reached == engine.sizes.adapter == 0


def test_a_model_that_is_not_on_this_disk_is_not_known(config: dict[str, Any]) -> None:
    with pytest.raises(NotKnown, match="org/name is on the Hub, and its files are not on this disk yet"):
        stages(config, student={"model": "org/name"})


def test_a_model_that_is_no_stack_of_linear_layers_is_not_known(tmp_path: Path, tiny_model: Path) -> None:
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    # Its layers are convolutions of width one.
    GPT2LMHeadModel(GPT2Config(vocab_size=258, n_embd=32, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path)
    with pytest.raises(NotKnown, match="are not linear layers alone"):
        Engine.of(Local(name="t", model=str(tmp_path)))
