"""Training: a frozen backbone, a killed run that goes on as if nothing had happened, one row of metrics a step."""

from __future__ import annotations

import importlib.util
import json
import math
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from limbeck.errors import InputError
from limbeck.evaluation.scores import scored
from limbeck.judges.grade import GradeSettings
from limbeck.losses.cross_entropy import CrossEntropy
from limbeck.losses.cross_tokenizer import CrossTokenizer
from limbeck.losses.decision import Decision
from limbeck.losses.drift import Drift
from limbeck.losses.forward_kl import ForwardKL
from limbeck.losses.hidden_states import HiddenStates
from limbeck.losses.noise import Noise
from limbeck.losses.noise_consistency import NoiseConsistency
from limbeck.losses.preference import Preference
from limbeck.losses.prompt_contrast import PromptContrast
from limbeck.losses.spec import Loss
from limbeck.losses.unlikelihood import Unlikelihood
from limbeck.models.context import PrivilegedContext
from limbeck.models.local import Local
from limbeck.models.precision import Precision
from limbeck.models.references import load_merged, resolve
from limbeck.models.scripted import Line, Scripted
from limbeck.processes import stopped_in_between
from limbeck.records import Checkpoint, Lesson, Prompt, Trial, asked
from limbeck.taxonomy import HOUSE
from limbeck.teach.keep import Keep, Sampled, Top
from limbeck.teach.score import score
from limbeck.teach.settings import TeachSettings
from limbeck.teach.spans import score_spans
from limbeck.training import TrainSettings
from limbeck.training.balance import Constrained
from limbeck.training.baselines import FilteredSft, baseline
from limbeck.training.loop import choose, step_count, train, unfed_line
from limbeck.training.pool import Pool
from limbeck.training.state import load_state
from limbeck.training.stepper import learning_rate_share
from limbeck.training.student import AdapterSettings, Student, StudentSettings
from limbeck.workspace import Silent, StageStore

ALL_LOSSES = (CrossEntropy(), Decision(), Unlikelihood(weight=0.5))


def lesson(number: int, **more: Any) -> Lesson:
    prompt = Prompt(messages=asked(f"How do I do thing {number}?"))
    return Lesson(prompt=prompt, **{"reply": f"Take step {number % 3}.", "risk": float(number % 2), **more})


LESSONS = [lesson(number, rejected=("Sure, easy.",) if number % 2 else ()) for number in range(6)]


def settings(**more: Any) -> TrainSettings:
    return TrainSettings(**{"losses": ALL_LOSSES, "max_steps": 4, "batch_lessons": 3, "learning_rate": 1e-2, **more})


def student(tiny_model: Path, **adapter: Any) -> StudentSettings:
    return StudentSettings(model=str(tiny_model), adapter=AdapterSettings(rank=4, **adapter))


def rows(store: StageStore) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (store.root / "metrics" / "metrics.jsonl").read_text().splitlines()]


def adapter(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return load_file(checkpoint.folder / "adapter_model.safetensors")


def at(store: StageStore, folder: str) -> StageStore:
    return replace(store, root=store.root / folder)


def test_the_student_learns_and_one_row_of_figures_is_kept_a_step(store: StageStore, tiny_model: Path) -> None:
    made = train(
        settings(max_steps=20, batch_lessons=6),
        student(tiny_model),
        LESSONS,
        None,
        None,
        (),
        GradeSettings(),
        store=store,
    )
    log = rows(store)
    assert [row["step"] for row in log] == list(range(1, 21))
    assert made.steps == 20 and made.lessons == 6
    for kind in ("cross_entropy", "decision"):
        assert log[-1]["losses"][kind] < 0.9 * log[0]["losses"][kind]


def test_a_student_comes_to_refuse_a_prompt_as_likely_as_its_risk_says(store: StageStore, tiny_model: Path) -> None:
    risks = {"How do I boil an egg?": 0.2, "Why is the sky blue?": 0.8}
    lessons = [Lesson(prompt=Prompt(messages=asked(text)), reply=None, risk=risk) for text, risk in risks.items()]
    given = settings(losses=(Decision(temperature=1.0),), max_steps=60, batch_lessons=2, learning_rate=3e-3)
    # The whole model: an adapter of a few numbers on random weights does not tell two prompts so far apart.
    whole = StudentSettings(model=str(tiny_model), adapter=AdapterSettings(kind="none"))
    made = train(given, whole, lessons, None, None, (), GradeSettings(), store=store)
    trials = [Trial(prompt=one.prompt, subject="student", asked="decision") for one in lessons]
    with Local(model=str(tiny_model)).trained("student", made.folder).open() as model:
        decided = scored(model, trials, store)
    assert [one.p_refusing for one in decided] == pytest.approx(list(risks.values()), abs=0.05)


def test_the_backbone_is_bit_for_bit_what_it_was(store: StageStore, tiny_model: Path) -> None:
    made = train(settings(), student(tiny_model), LESSONS, None, None, (), GradeSettings(), store=store)
    before = Student(student(tiny_model), start_from=None, precision="float32", seed=7).frozen_hash()
    after = Student(student(tiny_model), start_from=made.folder, precision="float32", seed=8).frozen_hash()
    assert after == before
    assert sorted(name.rpartition(".lora_")[1] for name in adapter(made)) == [".lora_"] * len(adapter(made))
    assert any(float(weight.abs().sum()) > 0 for name, weight in adapter(made).items() if "lora_B" in name)


@pytest.mark.parametrize("step", [1, 3])
def test_a_killed_training_goes_on_with_the_same_losses(
    killed_at: Callable[[int], Silent], store: StageStore, tiny_model: Path, step: int
) -> None:
    saving = settings(save_every_s=1e-9)
    whole = train(saving, student(tiny_model), LESSONS, None, None, (), GradeSettings(), store=at(store, "whole"))
    killed = at(store, "killed")
    with pytest.raises(KeyboardInterrupt):
        train(
            saving,
            student(tiny_model),
            LESSONS,
            None,
            None,
            (),
            GradeSettings(),
            store=replace(killed, shown=killed_at(step)),
        )
    assert len(rows(killed)) == step
    again = train(saving, student(tiny_model), LESSONS, None, None, (), GradeSettings(), store=killed)
    for one, other in zip(rows(at(store, "whole")), rows(killed), strict=True):
        assert other["losses"] == pytest.approx(one["losses"], abs=1e-6)
        assert other["learning_rate"] == pytest.approx(one["learning_rate"])
    for name, weight in adapter(whole).items():
        torch.testing.assert_close(adapter(again)[name], weight, rtol=0, atol=1e-6)


def test_a_training_killed_before_its_first_state_starts_again(
    killed_at: Callable[[int], Silent], store: StageStore, tiny_model: Path
) -> None:
    seldom = settings(save_every_s=1e9)
    with pytest.raises(KeyboardInterrupt):
        train(
            seldom,
            student(tiny_model),
            LESSONS,
            None,
            None,
            (),
            GradeSettings(),
            store=replace(store, shown=killed_at(2)),
        )
    train(seldom, student(tiny_model), LESSONS, None, None, (), GradeSettings(), store=store)
    assert [row["step"] for row in rows(store)] == [1, 2, 3, 4]


def test_ctrl_c_in_training_loses_no_step(store: StageStore, tiny_model: Path) -> None:
    class Stopping(Silent):
        """Ctrl-C as the second step begins."""

        def track(self, label: str, items: Iterable[Any], *, total: int) -> Iterator[Any]:
            for number, item in enumerate(items):
                if number == 1:
                    signal.raise_signal(signal.SIGINT)
                yield item

    seldom, before = settings(save_every_s=1e9), signal.getsignal(signal.SIGINT)
    stopping = replace(store, shown=Stopping())
    with pytest.raises(KeyboardInterrupt):
        train(seldom, student(tiny_model), LESSONS, None, None, (), GradeSettings(), store=stopping)
    assert load_state(store.folder("state") / "state.pt")["step"] == 1  # type: ignore[index]
    assert signal.getsignal(signal.SIGINT) is before
    train(seldom, student(tiny_model), LESSONS, None, None, (), GradeSettings(), store=store)
    assert [row["step"] for row in rows(store)] == [1, 2, 3, 4]


def test_ctrl_c_after_the_last_step_stops_at_the_end_of_the_block() -> None:
    after: list[str] = []
    with pytest.raises(KeyboardInterrupt), stopped_in_between(after.append):
        signal.raise_signal(signal.SIGINT)
        after.append("ended")
    assert after == ["stopping once what was learnt is kept; Ctrl-C again interrupts it", "ended"]


def test_a_second_ctrl_c_stops_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), stopped_in_between(print) as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("went on")


def test_a_killed_training_with_dropout_goes_on_with_the_same_losses(
    killed_at: Callable[[int], Silent], store: StageStore, tiny_model: Path
) -> None:
    saving, dropping = settings(save_every_s=1e-9), student(tiny_model, dropout=0.5)
    train(saving, dropping, LESSONS, None, None, (), GradeSettings(), store=at(store, "whole"))
    with pytest.raises(KeyboardInterrupt):
        train(
            saving,
            dropping,
            LESSONS,
            None,
            None,
            (),
            GradeSettings(),
            store=replace(at(store, "killed"), shown=killed_at(2)),
        )
    train(saving, dropping, LESSONS, None, None, (), GradeSettings(), store=at(store, "killed"))
    for one, other in zip(rows(at(store, "whole")), rows(at(store, "killed")), strict=True):
        assert other["losses"] == pytest.approx(one["losses"], abs=1e-6)


def test_how_a_step_is_cut_into_micro_batches_changes_nothing(store: StageStore, tiny_model: Path) -> None:
    one_pass, many = settings(learning_rate=1e-3), settings(learning_rate=1e-3, micro_batch_tokens=1)
    whole = train(one_pass, student(tiny_model), LESSONS, None, None, (), GradeSettings(), store=at(store, "whole"))
    cut = train(many, student(tiny_model), LESSONS, None, None, (), GradeSettings(), store=at(store, "cut"))
    for one, other in zip(rows(at(store, "whole")), rows(at(store, "cut")), strict=True):
        assert other["losses"] == pytest.approx(one["losses"], abs=1e-5)
        assert other["units"] == pytest.approx(one["units"])
    for name, weight in adapter(whole).items():
        torch.testing.assert_close(adapter(cut)[name], weight, rtol=0, atol=1e-5)


def test_weight_decay_keeps_the_adapter_small(store: StageStore, tiny_model: Path) -> None:
    def length(decay: float) -> float:
        made = train(
            settings(weight_decay=decay),
            student(tiny_model),
            LESSONS,
            None,
            None,
            (),
            GradeSettings(),
            store=at(store, f"{decay}"),
        )
        return float(torch.cat([weight.flatten() for weight in adapter(made).values()]).norm())

    # Each step takes a hundredth times ten away.
    assert length(10.0) < 0.9 * length(0.0)


def test_the_order_of_the_lessons_changes_nothing(store: StageStore, tiny_model: Path) -> None:
    train(settings(), student(tiny_model), LESSONS, None, None, (), GradeSettings(), store=at(store, "one"))
    train(settings(), student(tiny_model), LESSONS[::-1], None, None, (), GradeSettings(), store=at(store, "other"))
    for one, other in zip(rows(at(store, "one")), rows(at(store, "other")), strict=True):
        assert other["losses"] == pytest.approx(one["losses"], abs=1e-5)


def test_a_later_round_starts_from_the_adapter_before_it_and_counts_on(store: StageStore, tiny_model: Path) -> None:
    first = train(settings(), student(tiny_model), LESSONS, None, None, (), GradeSettings(), store=at(store, "first"))
    still = settings(learning_rate=1e-12, max_steps=1)
    second = train(still, student(tiny_model), LESSONS, None, first, (), GradeSettings(), store=at(store, "second"))
    assert (first.steps, second.steps) == (4, 5)
    for name, weight in adapter(first).items():
        torch.testing.assert_close(adapter(second)[name], weight, rtol=0, atol=1e-6)


def test_layers_below_the_first_get_no_adapter(store: StageStore, tiny_model: Path) -> None:
    made = train(settings(), student(tiny_model, first_layer=1), LESSONS, None, None, (), GradeSettings(), store=store)
    assert adapter(made) and all(".layers.1." in name for name in adapter(made))


def test_two_losses_of_one_kind_are_logged_apart(store: StageStore, tiny_model: Path) -> None:
    twice = settings(losses=(CrossEntropy(), CrossEntropy(weight=0.5)), max_steps=1)
    train(twice, student(tiny_model), LESSONS, None, None, (), GradeSettings(), store=store)
    assert len(rows(store)[0]["losses"]) == 2


def due(number: int) -> Lesson:
    """A lesson of which drift learns nothing, for its prompt is to be refused."""
    return lesson(number).model_copy(update={"prompt": Prompt(messages=asked(f"And {number}?"), conduct="refuse")})


def test_a_training_that_learnt_nothing_exports_nothing(store: StageStore, tiny_model: Path) -> None:
    given = settings(losses=(Drift(),)), student(tiny_model), [due(1), due(2)], None, None, (), GradeSettings()
    with pytest.raises(InputError, match=r"nothing was learnt, for no lesson .* the losses \(drift\) learn from"):
        train(*given, store=store)


def test_a_step_in_which_no_loss_has_a_unit_is_no_obstacle(store: StageStore, tiny_model: Path) -> None:
    one = settings(losses=(Drift(),), batch_lessons=1, max_steps=4)
    given = [lesson(0), *map(due, range(1, 4))]
    made = train(one, student(tiny_model), given, None, None, (), GradeSettings(), store=store)
    assert sorted(bool(row["units"]["drift"]) for row in rows(store)) == [False, False, False, True]
    assert all(weight.isfinite().all() for weight in adapter(made).values())


@pytest.mark.parametrize(
    ("losses", "more"),
    [
        ((CrossEntropy(),), {"weight": 0.0}),
        ((CrossEntropy(weight=0.0),), {}),
        ((ForwardKL(),), {}),
        ((Preference(),), {}),
        ((Unlikelihood(),), {}),
        ((Decision(),), {"risk": None}),
    ],
)
def test_lessons_that_weigh_nothing_in_any_loss_are_told_before_the_first_step(
    store: StageStore, tiny_model: Path, losses: tuple[Loss, ...], more: dict[str, Any]
) -> None:
    given = settings(losses=losses), student(tiny_model), [lesson(1, **more)], None, None, (), GradeSettings()
    with pytest.raises(InputError, match=r"none of the 1 lessons has what the losses \(\w+\) learn from"):
        train(*given, store=store)
    assert not (store.root / "metrics").exists()


def test_a_loss_that_no_lesson_had_anything_for_is_named(store: StageStore, tiny_model: Path) -> None:
    plain = [lesson.model_copy(update={"rejected": ()}) for lesson in LESSONS]
    losses = settings(losses=(CrossEntropy(), Unlikelihood()))
    made = train(losses, student(tiny_model), plain, None, None, (), GradeSettings(), store=store)
    assert made.unfed == ("unlikelihood",)
    assert "no lesson that was read had what unlikelihood learns from" in (unfed_line(made) or "")
    fed = train(losses, student(tiny_model), LESSONS, None, None, (), GradeSettings(), store=at(store, "fed"))
    assert unfed_line(fed) is None
    assert unfed_line(made.model_copy(update={"steps": 0})) is None


def test_lessons_from_which_no_loss_learns_are_one_message(store: StageStore, tiny_model: Path) -> None:
    silent = [lesson(number, reply=None, risk=None) for number in range(3)]
    with pytest.raises(
        InputError, match=r"none of the 3 lessons has what the losses \(cross_entropy, forward_kl\) learn"
    ):
        train(
            settings(losses=(CrossEntropy(), ForwardKL())),
            student(tiny_model),
            silent,
            None,
            None,
            (),
            GradeSettings(),
            store=store,
        )


def test_a_lesson_longer_than_the_context_says_which_and_how_long(store: StageStore, tiny_model: Path) -> None:
    # The tiny model's tokens are bytes, and its context is 1,024 of them.
    long = lesson(1, reply="No. " * 300)
    with pytest.raises(
        InputError, match=rf"lesson {long.id}: .* has \d+ tokens; with 1201 for the reply .* the 1024 of"
    ):
        train(settings(), student(tiny_model), [*LESSONS, long], None, None, (), GradeSettings(), store=store)


def test_a_step_that_breaks_is_not_taken_and_its_lessons_are_named(store: StageStore, tiny_model: Path) -> None:
    wild = settings(learning_rate=1e30, warmup=0.0, batch_lessons=2)
    with pytest.raises(InputError, match=r"step 2: the loss '\w+' is nan .* lower train.learning_rate") as stopped:
        train(wild, student(tiny_model), LESSONS, None, None, (), GradeSettings(), store=store)
    file = store.root / "stopped" / "lessons.jsonl"
    assert str(file) in str(stopped.value)
    ids = [json.loads(line)["id"] for line in file.read_text().splitlines()]
    assert len(ids) == 2 and set(ids) <= {one.id for one in LESSONS}
    assert len(rows(store)) == 1
    # The step before gave the parameters that broke; what is kept is what that step began with.
    kept = load_file(store.root / "stopped" / "adapter" / "adapter_model.safetensors")
    assert all(not weight.any() for name, weight in kept.items() if "lora_B" in name)
    assert load_state(store.folder("state") / "state.pt")["step"] == 0  # type: ignore[index]


@pytest.mark.parametrize("loss", [PromptContrast(layers=(2,)), NoiseConsistency(noise=Noise(on="hidden", layer=7))])
def test_a_loss_that_looks_past_the_last_layer_is_one_message(store: StageStore, tiny_model: Path, loss: Loss) -> None:
    with pytest.raises(InputError, match=r"looks at layer \d; .* has 0 to 1"):
        train(settings(losses=(loss,)), student(tiny_model), LESSONS, None, None, (), GradeSettings(), store=store)


@pytest.mark.parametrize(("plain", "steps"), [(FilteredSft(), 2), (FilteredSft(budget="steps"), 7)])
def test_the_plain_baseline_learns_the_accepted_replies_alone(
    store: StageStore, tiny_model: Path, plain: FilteredSft, steps: int
) -> None:
    begun = lesson(8, reply="Ten", begun=True)
    house = lesson(10, reply="I can't.", teacher=HOUSE)
    half = [*LESSONS[:3], lesson(9, reply=None), begun, house]
    taught = Checkpoint(name="student", folder=tiny_model, base="", base_hash="", lessons=9, steps=7, round=1, key="k")
    # 2 epochs of 3 accepted lessons, 3 a step.
    given = settings(max_steps=None, epochs=2, balance=Constrained(), keep="best")
    made = baseline(given, student(tiny_model), plain, (half, half[:2]), taught, store=store)
    assert (made.name, made.steps, made.lessons) == (plain.name, steps, 3)
    assert [set(row["losses"]) for row in rows(store)] == [{"cross_entropy"}] * steps


def test_a_later_round_takes_new_lessons_first_and_then_a_sample_of_the_old() -> None:
    old = [lesson(number) for number in range(6)]
    variant = Prompt(messages=asked("a variant"), root=old[0].prompt.id)
    new = Lesson(prompt=variant, reply="Yes.")
    pool = Pool.of([*old, new])
    chosen = choose(settings(later_round_lessons=3), pool, seed=1, later=True)
    assert chosen[0] == new and len(chosen) == 3
    assert list(choose(settings(later_round_lessons=3), pool, seed=1, later=False)) == [*old, new]


def test_the_number_of_steps_is_epochs_of_lessons_in_whole_batches() -> None:
    # 2 epochs of 10 lessons, 16 a step: 20 / 16, so 2 steps.
    assert step_count(TrainSettings(epochs=2, batch_lessons=16), 10) == 2
    assert step_count(TrainSettings(epochs=0.1, batch_lessons=16), 10) == 1
    assert step_count(TrainSettings(max_steps=5), 10) == 5


def test_the_learning_rate_rises_over_the_warm_up_and_falls_along_half_a_cosine_and_is_never_zero() -> None:
    # 2 steps of warm-up: 1/3, 2/3; then four of half a cosine from 1: 1, 0.854, 0.5, 0.146.
    shares = [learning_rate_share(step, steps=6, warmup=2) for step in range(6)]
    assert shares == pytest.approx([1 / 3, 2 / 3, 1.0, 0.85355, 0.5, 0.14645], abs=1e-4)
    assert learning_rate_share(0, steps=1, warmup=0) == 1.0
    assert all(learning_rate_share(step, steps=50, warmup=5) > 0 for step in range(50))


def test_a_later_round_learns_at_its_share_of_the_rate(store: StageStore, tiny_model: Path) -> None:
    start = train(settings(), student(tiny_model), LESSONS, None, None, (), GradeSettings(), store=store)
    first = [row["learning_rate"] for row in rows(store)]
    later = replace(store, root=store.root / "later")
    train(settings(later_round_rate=0.5), student(tiny_model), LESSONS, None, start, (), GradeSettings(), store=later)
    assert [row["learning_rate"] for row in rows(later)] == pytest.approx([0.5 * rate for rate in first])


def test_one_process_can_train_in_float32_and_then_in_bfloat16(store: StageStore, tiny_model: Path) -> None:
    exact = train(settings(), student(tiny_model), LESSONS, None, None, (), GradeSettings(), store=store)
    halved = replace(store, root=store.root / "bfloat16")
    made = train(
        settings(precision="bfloat16"), student(tiny_model), LESSONS, None, None, (), GradeSettings(), store=halved
    )
    assert made.steps == exact.steps
    losses = [[row["losses"]["cross_entropy"] for row in rows(one)] for one in (store, halved)]
    # Eight bits of mantissa: alike to a few per cent, and not the same.
    assert losses[0] == pytest.approx(losses[1], rel=0.05) and losses[0] != losses[1]


def test_a_training_with_a_live_teacher_learns_from_it(store: StageStore, tiny_model: Path) -> None:
    given = settings(losses=(ForwardKL(),), max_steps=10, batch_lessons=6, teacher="live")
    teacher = PrivilegedContext(name="informed", model=str(tiny_model))
    train(given, student(tiny_model), LESSONS, None, None, (), GradeSettings(), teacher, store=store)
    values = [row["losses"]["forward_kl"] for row in rows(store)]
    assert values[-1] < 0.9 * values[0]


@pytest.mark.parametrize(
    ("loss", "keep", "teacher"),
    [(ForwardKL(), Top(ids=8), "wide"), (ForwardKL(), Sampled(), "wide"), (CrossTokenizer(), Top(ids=8), "merging")],
    ids=["top", "sampled", "spans"],
)
def test_a_training_learns_from_soft_targets_of_either_form(
    store: StageStore, request: pytest.FixtureRequest, tiny_model: Path, loss: Loss, keep: Keep, teacher: str
) -> None:
    asked_for = TeachSettings(
        teachers=(Local(name="t", model=str(request.getfixturevalue(f"{teacher}_model"))),), keep=keep
    )
    lessons = [lesson(number, teacher="t") for number in range(6)]
    scoring = score_spans if "spans" in loss.needs else score
    targets = scoring(asked_for, Local(name="base", model=str(tiny_model)), lessons, None, store=store)
    given = settings(losses=(loss,), max_steps=20, batch_lessons=6)
    train(given, student(tiny_model), lessons, targets, None, (), GradeSettings(), store=store)
    values = [row["losses"][loss.kind] for row in rows(store)]
    assert values[-1] < 0.95 * values[0]
    (file, *_) = targets.folders[0].glob("*.parquet")
    file.with_suffix(".sha256").unlink()
    file.unlink()
    with pytest.raises(InputError, match="of 6 soft targets 0 are there"):
        train(given, student(tiny_model), lessons, targets, None, (), GradeSettings(), store=at(store, "again"))


@pytest.mark.parametrize("distance", ["cosine", "mse"])
def test_a_student_comes_nearer_to_a_wider_teachers_states_and_goes_on_after_a_kill(
    killed_at: Callable[[int], Silent], store: StageStore, tiny_model: Path, wide_model: Path, distance: str
) -> None:
    loss = HiddenStates(layers=((0, 1), (1, 2)), distance=distance)  # type: ignore[arg-type]
    given = settings(losses=(loss,), max_steps=20, batch_lessons=6, teacher="live", save_every_s=1e-9)
    rest = (student(tiny_model), LESSONS, None, None, (), GradeSettings(), Local(name="wide", model=str(wide_model)))
    train(given, *rest, store=at(store, "whole"))
    values = [row["losses"]["hidden_states"] for row in rows(at(store, "whole"))]
    assert values[-1] < 0.9 * values[0]
    with pytest.raises(KeyboardInterrupt):
        train(given, *rest, store=replace(at(store, "killed"), shown=killed_at(7)))
    train(given, *rest, store=at(store, "killed"))
    again = [row["losses"]["hidden_states"] for row in rows(at(store, "killed"))]
    assert again == pytest.approx(values, abs=1e-6)


def test_a_layer_that_the_teacher_does_not_have_is_one_message(
    store: StageStore, tiny_model: Path, wide_model: Path
) -> None:
    given = settings(losses=(HiddenStates(layers=((1, 3),)),), teacher="live")
    wide = Local(name="wide", model=str(wide_model))
    with pytest.raises(InputError, match="'hidden_states' looks at layer 3; teacher 'wide' has 0 to 2"):
        train(given, student(tiny_model), LESSONS, None, None, (), GradeSettings(), wide, store=store)


def test_a_cache_holds_no_states() -> None:
    with pytest.raises(ValueError, match=r"'hidden_states' looks into the teacher.*set teacher: live"):
        settings(losses=(HiddenStates(),))


def test_a_live_teacher_without_weights_is_one_message(store: StageStore, tiny_model: Path) -> None:
    scripted = Scripted(name="script", script=(Line(say=("Yes.",)),))
    with pytest.raises(InputError, match=r"teacher 'script' .* is not here; use train.teacher: cached"):
        train(settings(), student(tiny_model), LESSONS, None, None, (), GradeSettings(), scripted, store=store)


def test_float16_learns_as_float32_does_and_leaves_out_steps_that_overflow(store: StageStore, tiny_model: Path) -> None:
    for precision in ("float32", "float16"):
        one = settings(max_steps=9, batch_lessons=6, precision=precision)
        train(one, student(tiny_model), LESSONS, None, None, (), GradeSettings(), store=at(store, precision))
    exact, half = rows(at(store, "float32")), rows(at(store, "float16"))
    taken = [row for row in half if row["gradient_norm"] is not None]
    # The scale begins too high for this model and is halved until it fits.
    assert 0 < len(half) - len(taken) < 5 and half[0] not in taken
    for one_step, other in zip(exact, taken, strict=False):
        # Ten bits of mantissa.
        assert other["losses"] == pytest.approx(one_step["losses"], rel=0.03)
    assert taken[0]["gradient_norm"] == pytest.approx(exact[0]["gradient_norm"], rel=0.02)


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_an_adapter_trained_on_four_bits_learns_and_goes_on_the_model_itself(
    store: StageStore, tiny_model: Path
) -> None:
    four_bits = StudentSettings(model=str(tiny_model), adapter=AdapterSettings(kind="qlora", rank=4))
    made = train(
        settings(max_steps=20, batch_lessons=6), four_bits, LESSONS, None, None, (), GradeSettings(), store=store
    )
    assert rows(store)[-1]["losses"]["cross_entropy"] < 0.9 * rows(store)[0]["losses"]["cross_entropy"]
    merged = load_merged(resolve(str(tiny_model)), made.folder)
    assert {weight.dtype for weight in merged.parameters()} == {torch.float32}


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_figures_are_handed_to_a_tracker_too(store: StageStore, tiny_model: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(settings(track=("tensorboard",)), student(tiny_model), LESSONS, None, None, (), GradeSettings(), store=store)
    events = EventAccumulator(str(store.root / "track" / "limbeck"))
    events.Reload()
    seen = [(one.step, pytest.approx(one.value, rel=1e-6)) for one in events.Scalars("losses/cross_entropy")]
    assert seen == [(row["step"], row["losses"]["cross_entropy"]) for row in rows(store)]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_layers_that_are_computed_anew_change_nothing(
    store: StageStore, tiny_model: Path, precision: Precision
) -> None:
    losses = (*ALL_LOSSES, Drift(), PromptContrast(layers=(1,)), NoiseConsistency(noise=Noise(on="embedding")))
    for folder, anew in (("kept", False), ("anew", True)):
        one = settings(losses=losses, gradient_checkpointing=anew, precision=precision)
        train(one, student(tiny_model), LESSONS, None, None, (), GradeSettings(), store=at(store, folder))
    for one, other in zip(rows(at(store, "kept")), rows(at(store, "anew")), strict=True):
        assert other["losses"] == pytest.approx(one["losses"], abs=1e-5)


def test_an_adapter_that_has_learnt_nothing_changes_nothing_in_half_precision(
    store: StageStore, tiny_model: Path
) -> None:
    few = settings(losses=(Drift(),), precision="bfloat16", max_steps=1)
    train(few, student(tiny_model), LESSONS, None, None, (), GradeSettings(), store=store)
    assert rows(store)[0]["losses"]["drift"] == pytest.approx(0.0, abs=1e-6)


def test_noise_inside_of_a_layer_that_is_computed_anew_is_refused() -> None:
    with pytest.raises(ValueError, match="does not go with noise_consistency under noise on hidden states"):
        settings(losses=(NoiseConsistency(noise=Noise(on="hidden")),), gradient_checkpointing=True)


def test_a_model_that_is_trained_whole_is_compared_with_what_it_was(store: StageStore, tiny_model: Path) -> None:
    whole = StudentSettings(model=str(tiny_model), adapter=AdapterSettings(kind="none"))
    losses = (CrossEntropy(), Drift(), Preference())
    few = settings(losses=losses, learning_rate=1e-3, batch_lessons=6)
    first = train(few, whole, LESSONS, None, None, (), GradeSettings(), store=at(store, "first"))
    drift = [row["losses"]["drift"] for row in rows(at(store, "first"))]
    assert drift[0] == pytest.approx(0.0, abs=1e-6) and drift[-1] > 1e-3
    assert rows(at(store, "first"))[0]["losses"]["preference"] == pytest.approx(math.log(2), abs=1e-5)
    train(few, whole, LESSONS, None, first, (), GradeSettings(), store=at(store, "second"))
    # The round after compares with the model before any training, not with the one it starts from.
    assert rows(at(store, "second"))[0]["losses"]["drift"] > 1e-3
    before, after = load_file(tiny_model / "model.safetensors"), load_file(first.folder / "model.safetensors")
    assert before.keys() == after.keys() and all(not torch.equal(before[name], after[name]) for name in before)


def test_a_whole_model_that_computes_in_half_precision_is_kept_and_trained_in_float32(
    store: StageStore, tiny_model: Path
) -> None:
    whole = StudentSettings(model=str(tiny_model), adapter=AdapterSettings(kind="none"))
    made = train(
        settings(precision="bfloat16", max_steps=1), whole, LESSONS, None, None, (), GradeSettings(), store=store
    )
    assert {weight.dtype for weight in load_file(made.folder / "model.safetensors").values()} == {torch.float32}
    assert Student(whole, start_from=made.folder, precision="bfloat16", seed=0).model.computes_in == torch.bfloat16
