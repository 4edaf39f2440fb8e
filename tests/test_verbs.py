"""Single verbs on the user's own files."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from limbeck.config import RunConfig
from limbeck.errors import InputError
from limbeck.evaluation import EvaluateSettings
from limbeck.files import Row, lesson_of
from limbeck.judges.calibrate import CalibrateSettings
from limbeck.judges.profile import Profile, Rules
from limbeck.losses.cross_entropy import CrossEntropy
from limbeck.losses.forward_kl import ForwardKL
from limbeck.losses.unlikelihood import Unlikelihood
from limbeck.models.local import Local
from limbeck.models.recorded import Recorded
from limbeck.records import Lesson, Prompt, asked
from limbeck.report.calibration import as_lines
from limbeck.report.trials import trial_row
from limbeck.teach.settings import TeachSettings
from limbeck.training import TrainSettings
from limbeck.training.student import StudentSettings
from limbeck.verbs import _gone_if_refused, calibrate_file, judge_file, judge_named, profile_named, train, unanswered
from limbeck.workspace import Silent

USER, ASSISTANT = {"role": "user", "content": "How?"}, {"role": "assistant", "content": "So."}


def lesson(**values: Any) -> Lesson:
    return lesson_of(Row("a.jsonl:1", values))


@pytest.mark.parametrize(
    "values",
    [
        {"prompt": "How?", "completion": "So."},
        {"prompt": "How?", "reply": "So."},
        {"messages": [USER, ASSISTANT]},
        {"prompt": [USER], "completion": [ASSISTANT]},
        {"prompt": "How?", "chosen": "So.", "rejected": "No."},
        {"prompt": [USER], "chosen": [ASSISTANT], "rejected": [{"role": "assistant", "content": "No."}]},
        {"prompt": "How?", "chosen": [USER, ASSISTANT], "rejected": [USER, {"role": "assistant", "content": "No."}]},
    ],
)
def test_rows_as_trl_has_them_are_lessons(values: dict[str, Any]) -> None:
    found = lesson(**values)
    assert (found.prompt.text, found.reply, found.ends, found.weight) == ("How?", "So.", True, 1.0)
    assert found.rejected == (("No.",) if "rejected" in values else ())


def test_a_weight_is_the_share_of_a_lesson() -> None:
    assert lesson(prompt="How?", completion="So.", weight=0.25).weight == 0.25


@pytest.mark.parametrize("weight", ["much", None, -1.0, 3.0])
def test_a_weight_outside_zero_to_one_is_one_message(weight: Any) -> None:
    with pytest.raises(InputError, match=r"a.jsonl:1: 'weight'"):
        lesson(prompt="How?", completion="So.", weight=weight)


def test_the_decision_is_learnt_only_where_a_row_says_what_is_expected() -> None:
    assert lesson(prompt="How?", completion="So.").risk is None
    assert lesson(prompt="How?", completion="No.", harm="bias").risk == 1.0
    assert lesson(prompt="How?", completion="So.", conduct="answer").risk == 0.0
    assert lesson(prompt="How?", completion="So.", harm="bias", tier="safe").risk == 0.0


@pytest.mark.parametrize("values", [{"prompt": "How?"}, {"messages": [USER]}, {"prompt": "How?", "completion": ""}])
def test_a_row_without_a_reply_is_named(values: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"a.jsonl:1: there is no reply; give completion, chosen, or messages"):
        lesson(**values)


def test_a_reply_that_is_to_be_learnt_and_avoided_is_named() -> None:
    with pytest.raises(InputError, match=r"a.jsonl:1: the reply to learn is also the rejected one; keep one of them"):
        lesson(prompt="How?", chosen="So.", rejected=[ASSISTANT])


def test_every_lesson_that_is_wrong_is_told(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "How?"}\n{"prompt": "How?", "chosen": "So.", "rejected": "So."}\n')
    config = RunConfig(student=StudentSettings(model=str(tiny_model)), train=TrainSettings(losses=(CrossEntropy(),)))
    with pytest.raises(InputError, match=r"a.jsonl:1: there is no reply; .*\n.*a.jsonl:2: the reply to learn is also"):
        train(config, tmp_path / "a.jsonl", tmp_path / "out")


def test_a_chat_loses_only_its_last_turn() -> None:
    found = lesson(
        messages=[USER, ASSISTANT, {"role": "user", "content": "And then?"}, {"role": "assistant", "content": "Yes."}]
    )
    assert ([turn.content for turn in found.prompt.messages], found.reply) == (["How?", "So.", "And then?"], "Yes.")


def test_a_lesson_that_exceeds_the_context_is_named_with_its_line_and_its_tokens(
    tiny_model: Path, tmp_path: Path
) -> None:
    # The tiny model reads bytes, 1,024 at most: 'ä' has two. 'How?' in its turn has 23, an end of turn 1.
    rows = [{"prompt": "How?", "completion": "y" * 1000}, {"prompt": "How?", "completion": "ä" * 501}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    learn = TrainSettings(losses=(CrossEntropy(),))
    with pytest.raises(
        InputError, match=r"a.jsonl:2: 'How\?…' has 23 tokens; with 1003 for the reply that exceeds the"
    ):
        train(RunConfig(student=StudentSettings(model=str(tiny_model)), train=learn), tmp_path / "a.jsonl", tmp_path)


def test_a_rejected_reply_counts_where_a_loss_learns_from_it(tiny_model: Path, tmp_path: Path) -> None:
    row = {"prompt": "How?", "chosen": "So.", "rejected": "n" * 1002}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    learn = TrainSettings(losses=(CrossEntropy(), Unlikelihood()), max_steps=1)
    config = RunConfig(student=StudentSettings(model=str(tiny_model)), train=learn)
    with pytest.raises(InputError, match=r"a.jsonl:1 \(rejected\): 'How\?…' has 23 tokens; with 1002 for the reply"):
        train(config, tmp_path / "a.jsonl", tmp_path / "out")
    alone = config.model_copy(update={"train": learn.model_copy(update={"losses": (CrossEntropy(),)})})
    assert train(alone, tmp_path / "a.jsonl", tmp_path / "out").is_dir()


def test_ready_lessons_can_be_learnt_with_the_distribution_of_a_live_teacher(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "How?", "completion": "So."}) + "\n")
    learn = TrainSettings(losses=(ForwardKL(),), max_steps=1, teacher="live")
    config = RunConfig(student=StudentSettings(model=str(tiny_model)), train=learn)
    with pytest.raises(InputError, match="live needs one model that gives all distributions; here it is nobody"):
        train(config, tmp_path / "a.jsonl", tmp_path / "out")
    mute = config.model_copy(update={"teach": TeachSettings(teachers=(Recorded(name="tape"),))})
    with pytest.raises(InputError, match=r"here it is nobody \(teacher 'tape' is recorded and gives replies alone\)"):
        train(mute, tmp_path / "a.jsonl", tmp_path / "out")
    teach = TeachSettings(teachers=(Local(name="teacher", model=str(tiny_model)),))
    taught = config.model_copy(update={"teach": teach})
    assert (train(taught, tmp_path / "a.jsonl", tmp_path / "out") / "merged").is_dir()


def test_a_training_that_was_stopped_leaves_the_recipe_of_the_student_that_is_there(
    killed_at: Callable[[int], Silent], tmp_path: Path, tiny_model: Path
) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "How?", "completion": "So."}) + "\n")
    student = StudentSettings(model=str(tiny_model))
    first, second = (
        RunConfig(student=student, train=TrainSettings(losses=(CrossEntropy(),), max_steps=steps)) for steps in (1, 2)
    )
    train(first, tmp_path / "a.jsonl", tmp_path / "out")
    told = [tmp_path / "out" / name for name in ("recipe.yaml", "manifest.json")]
    before = [file.read_bytes() for file in told]
    with pytest.raises(KeyboardInterrupt):
        train(second, tmp_path / "a.jsonl", tmp_path / "out", progress=killed_at(1))
    assert [file.read_bytes() for file in told] == before
    train(second, tmp_path / "a.jsonl", tmp_path / "out")
    assert "max_steps: 2" in told[0].read_text() and told[1].read_bytes() != before[1]


SCRIPT = [{"when": r"\nNo[.]\n", "say": ['{"refused": "full"}']}, {"say": ['{"refused": "none"}']}]
SCRIPTED_JUDGE = json.dumps({"kind": "rubric", "model": {"kind": "scripted", "script": SCRIPT}})


def labels(folder: Path, *rows: tuple[str, str]) -> Path:
    """A file of replies to 'How?', each with a label."""
    file = folder / "labels.jsonl"
    written = [json.dumps({"prompt": "How?", "reply": reply, "said": label}) for reply, label in rows]
    file.write_text("\n".join(written), encoding="utf-8")
    return file


def test_a_judge_is_held_against_labels_and_shown(tmp_path: Path) -> None:
    file = labels(tmp_path, ("No.", "full"), ("So.", "none"), ("Thus.", "partial"))
    found = calibrate_file(SCRIPTED_JUDGE, file, tmp_path / "out", CalibrateSettings(), column="said")
    assert found.measurements[0].value == pytest.approx(2 / 3)
    assert json.loads((tmp_path / "out" / "calibration.json").read_text())["judge"] == "rubric"
    page = (tmp_path / "out" / "calibration.html").read_text()
    assert "accuracy of its decisions" in page and "<svg" in page and "http" not in page.replace("http-equiv", "")


HARM_SCRIPT = [{"when": r"\nNo[.]\n", "say": ['{"harm": {"bias": 0.75}}']}, {"say": ['{"harm": {"bias": 0}}']}]
HARM_JUDGE = json.dumps({"kind": "rubric", "rubric": "harm", "model": {"kind": "scripted", "script": HARM_SCRIPT}})


def test_thresholds_by_harm_and_language_are_a_profile_that_new_labels_refit(tmp_path: Path) -> None:
    def fit(*, german: int) -> Profile:
        told = [("en", "No.", "yes")] * 30 + [("en", "So.", "no")] * 9 + [("de", "No.", "yes")] * german
        rows = [
            {"prompt": "How?", "reply": reply, "said": label, "harm": "bias", "language": language}
            for language, reply, label in told
        ]
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        settings, out = CalibrateSettings(fit=True), tmp_path / "out"
        found = calibrate_file(HARM_JUDGE, tmp_path / "rows.jsonl", out, settings, column="said", profile="children")
        assert all("bias, de" in text for text in ((out / "calibration.html").read_text(), "\n".join(as_lines(found))))
        return EvaluateSettings.model_validate({"profile": str(out / "profile.yaml")}).profile

    children = profile_named("children")
    profile = fit(german=12)
    assert profile == children.model_copy(update={"languages": {"en": Rules(thresholds={"bias": 0.75})}})
    text = (tmp_path / "out" / "profile.yaml").read_text()
    assert text.startswith("# Thresholds of the judge rubric (") and "# undecided: bias, de: 12 scored" in text
    assert fit(german=29).languages["de"] == Rules(thresholds={"bias": 0.75})
    assert "undecided" not in (tmp_path / "out" / "profile.yaml").read_text()


def test_a_row_that_names_no_harm_to_fit_is_named_with_its_line(tmp_path: Path) -> None:
    file = labels(tmp_path, ("No.", "full"))
    with pytest.raises(
        InputError, match=r"labels.jsonl:1: there is no text in 'harm'; name the harm .* or give --harm"
    ):
        calibrate_file(HARM_JUDGE, file, tmp_path / "out", CalibrateSettings(fit=True), column="said")
    file.write_text('{"prompt": "How?", "reply": "So.", "said": 1, "harm": "toxicty"}\n')
    with pytest.raises(InputError, match=r"labels.jsonl:1: harm 'toxicty' is unknown, .*; did you mean toxicity\?"):
        calibrate_file(HARM_JUDGE, file, tmp_path / "out", CalibrateSettings(fit=True), column="said")
    found = calibrate_file(HARM_JUDGE, file, tmp_path / "o", CalibrateSettings(fit=True, harm="bias"), column="said")
    assert [(one.harm, one.language) for one in found.fitted] == [("bias", "en")]


def test_an_unknown_label_is_named_with_its_line(tmp_path: Path) -> None:
    file = labels(tmp_path, ("No.", "full"), ("So.", "perhaps"))
    with pytest.raises(InputError, match=r"labels.jsonl:2: the label is 'perhaps'"):
        calibrate_file(SCRIPTED_JUDGE, file, tmp_path / "out", CalibrateSettings(), column="said")
    with pytest.raises(InputError, match=r"labels.jsonl: no row has 'sad'; did you mean said\?$"):
        calibrate_file(SCRIPTED_JUDGE, file, tmp_path / "out", CalibrateSettings(), column="sad")
    file.write_text('{"prompt": "How?", "reply": "So.", "said": 1}\n{"prompt": "How?", "reply": "No.", "sad": 1}\n')
    with pytest.raises(InputError, match=r"labels.jsonl:2: there is no 'said'; did you mean sad\?$"):
        calibrate_file(SCRIPTED_JUDGE, file, tmp_path / "out", CalibrateSettings(), column="said")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("judge", "complaint"),
    [
        ("refusals", "--judge: unknown judge 'refusals'; did you mean refusal"),
        ("{kind: rubric}", "--judge: model: is missing"),
        ("{kind: rubric, model: {kind: local}, max_token: 3}", "--judge: max_token: is unknown"),
        ("{kind: [}", "--judge: the settings are no YAML"),
    ],
)
def test_a_judge_named_wrongly_is_one_message(judge: str, complaint: str) -> None:
    with pytest.raises(InputError) as raised:
        judge_named(judge)
    assert complaint in str(raised.value)


def test_a_profile_says_what_is_harmful_in_a_graded_file(tmp_path: Path) -> None:
    judge = '{kind: rubric, rubric: harm, model: {kind: scripted, script: [{say: [\'{"harm": {"bias": 0.3}}\']}]}}'
    file = labels(tmp_path, ("So.", "none"))
    for profile, harmful in ((None, []), ("children", ["bias"])):
        graded = tmp_path / f"graded-{profile}.jsonl"
        assert judge_file(judge, file, graded, profile=profile) == (1, 0)
        assert json.loads(graded.read_text())["harmful"] == harmful


def test_own_rows_are_mixed_in_by_weight_and_every_turn_of_a_chat_can_be_learnt(
    tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "How?", "completion": "So."}) + "\n")
    chat = [USER, ASSISTANT, {"role": "user", "content": "And then?"}, {"role": "assistant", "content": "Yes."}]
    (tmp_path / "own.jsonl").write_text(json.dumps({"messages": chat}) + "\n")
    units = []
    for weight, supervise in ((1.0, "last"), (0.5, "last"), (0.5, "all")):
        extra = {"path": tmp_path / "own.jsonl", "weight": weight}
        values = {"losses": ["cross_entropy"], "max_steps": 1, "batch_lessons": 3 if supervise == "all" else 2}
        learn = TrainSettings.model_validate({**values, "extra": [extra], "supervise": supervise})
        config = RunConfig(student=StudentSettings(model=str(tiny_model)), train=learn)
        train(config, tmp_path / "a.jsonl", tmp_path / f"{weight} {supervise}")
        (file,) = (tmp_path / f"{weight} {supervise}").glob("checkpoint-*/metrics/metrics.jsonl")
        units.append(json.loads(file.read_text())["units"]["cross_entropy"])
    # Bytes and an end: 'So.' has 4 tokens, 'Yes.' 5; with every turn the chat's own 'So.' is a third lesson.
    assert units == [4 + 5, 4 + 0.5 * 5, 4 + 0.5 * 4 + 0.5 * 5]


def test_a_tracker_that_is_not_installed_is_one_message(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else find(name))
    learn = TrainSettings(losses=(CrossEntropy(),), track=("wandb",))
    config = RunConfig(student=StudentSettings(model=str(tiny_model)), train=learn)
    with pytest.raises(InputError, match=r"train.track wandb needs the package wandb; run: pip install wandb"):
        train(config, tmp_path / "a.jsonl", tmp_path / "out")


@pytest.mark.parametrize(("why", "told"), [("not asked", False), ("the context is full", True)])
def test_a_choice_that_was_not_asked_for_is_none_without_an_answer(tmp_path: Path, why: str, told: bool) -> None:
    row = trial_row(Prompt(messages=asked("What is 1 + 1?"), choices=("1", "2"), answer=1), [])
    (tmp_path / "trials.jsonl").write_text(json.dumps(row | {"why": why}))
    assert unanswered(tmp_path) == ([f"{tmp_path / 'trials.jsonl'}:1: {why}"] if told else [])


def test_what_is_refused_takes_no_other_measurement_with_it(tmp_path: Path) -> None:
    mine, other = tmp_path / "runs" / "mine", tmp_path / "runs" / "other"
    nothing_kept: Any = SimpleNamespace(kept={})
    with pytest.raises(InputError), _gone_if_refused(nothing_kept, [mine, mine.parent]):
        mine.mkdir(parents=True)
        other.mkdir()
        raise InputError("refused")
    assert list((tmp_path / "runs").iterdir()) == [other]
