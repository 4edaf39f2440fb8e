"""Every mistake in a recipe is reported at once, with its line and what was allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from limbeck.config import RunConfig, load_config, save_config
from limbeck.errors import InputError
from limbeck.losses.forward_kl import ForwardKL
from limbeck.spec import fingerprint

RECIPE = """\
seed: 3
student: {model: some-model}
teach:
  teachers:
    - {name: expert, kind: recorded}
train:
  losses:
    - {kind: cross_entropy, weight: 2.0}
    - {kind: forward_kl, temperature: 2.0}
  learning_rate: 1e-4
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path / "recipe.yaml"


def complaint(recipe: Path, text: str, *overrides: str) -> list[str]:
    """What is said of a recipe, a mistake a line, without its folder."""
    recipe.write_text(text)
    with pytest.raises(InputError) as raised:
        load_config(recipe, overrides)
    return str(raised.value).replace(f"{recipe.parent}/", "").splitlines()


def test_a_recipe_is_read_with_its_numbers_and_kinds(recipe: Path) -> None:
    config = load_config(recipe)
    assert (config.seed, config.rounds, config.train.learning_rate) == (3, 2, 1e-4)
    assert config.train.losses[1] == ForwardKL(temperature=2.0)


def test_the_shipped_recipe_loads() -> None:
    shipped = Path(__file__).parents[1] / "recipes"
    assert [load_config(file).student.model for file in shipped.glob("quickstart.yaml")] == ["smollm2-135m-instruct"]


def test_an_override_without_an_equals_sign_hides_no_other_mistake(recipe: Path) -> None:
    assert complaint(recipe, RECIPE.replace("seed: 3", "seed: three"), "seed", "sift.keep=2", "a.b") == [
        "recipe.yaml:1: seed: is 'three'; use a whole number",
        "--set sift.keep=2: sift.keep: is 2; use 1 or less",
        "--set seed: write it as section.key=value",
        "--set a.b: write it as section.key=value",
    ]


def test_an_unknown_key_is_named_with_its_line_and_the_nearest_one(recipe: Path) -> None:
    assert complaint(recipe, RECIPE.replace("learning_rate", "lerning_rate")) == [
        "recipe.yaml:10: train.lerning_rate: unknown; did you mean learning_rate?"
    ]


def test_an_unknown_key_of_an_adapter_is_named_with_the_nearest_one(recipe: Path) -> None:
    assert complaint(recipe, RECIPE.replace("some-model", "m, adapter: {kind: dora, rnk: 8}")) == [
        "recipe.yaml:2: student.adapter.rnk: unknown; did you mean rank?"
    ]


def test_an_unknown_key_inside_a_member_of_a_list_is_named_with_its_line(recipe: Path) -> None:
    assert complaint(recipe, RECIPE.replace("temperature: 2.0", "temprature: 2.0")) == [
        "recipe.yaml:9: train.losses.1.temprature: unknown; did you mean temperature?"
    ]


def test_an_unknown_key_in_settings_that_may_be_left_out_is_named_with_the_nearest_one(recipe: Path) -> None:
    told = "{name: t, kind: endpoint, model: m, base_url: http://a/v1, price: {prompt: 1, reply: 1, repply: 2}}"
    with pytest.raises(InputError, match=r"teach\.teachers\.0\.price\.repply: unknown; did you mean reply\?"):
        load_config(recipe, [f"teach.teachers.0={told}"])


def test_a_typo_in_a_kind_is_named_with_the_nearest_one(recipe: Path) -> None:
    assert complaint(recipe, RECIPE.replace("kind: forward_kl", "kind: foward_kl")) == [
        "recipe.yaml:9: train.losses.1: unknown loss 'foward_kl'; did you mean forward_kl?"
    ]


def test_what_other_tools_call_a_setting_is_told_by_the_name_that_it_has_here(recipe: Path) -> None:
    theirs = RECIPE.replace("train:\n", "train:\n  num_train_epochs: 3\n  bf16: true\n")
    assert complaint(recipe, theirs) == [
        "recipe.yaml:7: train.num_train_epochs: unknown; here it is epochs",
        "recipe.yaml:8: train.bf16: unknown; here it is precision: bfloat16",
    ]


def test_several_mistakes_are_all_reported_at_once(recipe: Path) -> None:
    text = (
        RECIPE.replace("seed: 3", "seed: three").replace("cross_entropy", "cross_entrpy").replace("expert,", "e, h: 1,")
    )
    said = complaint(recipe, text)
    assert [line.split(": ")[0] for line in said] == ["recipe.yaml:1", "recipe.yaml:5", "recipe.yaml:8"]
    assert said[0] == "recipe.yaml:1: seed: is 'three'; use a whole number"


def test_a_value_out_of_its_list_says_what_is_allowed(recipe: Path) -> None:
    assert complaint(recipe, RECIPE + "  precision: float8\n") == [
        "recipe.yaml:11: train.precision: is 'float8'; use auto, float32, bfloat16 or float16"
    ]


def test_a_missing_section_is_named(recipe: Path) -> None:
    (said,) = complaint(recipe, "seed: 1\nrounds: 1\n")
    assert said.startswith("recipe.yaml:1: student: ")


def test_a_missing_recipe_says_how_to_write_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no such recipe; write one with `limbeck new .*none.yaml`"):
        load_config(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("text", "what"),
    [("", "empty"), ("# nothing\n", "empty"), ("just words", "'just words'"), ("- a\n- b\n", "a list")],
)
def test_a_recipe_without_keys_is_one_message_that_says_what_it_is(recipe: Path, text: str, what: str) -> None:
    said = f"recipe.yaml is {what}, not `key: value`; `limbeck new` writes a recipe to start from"
    assert complaint(recipe, text) == [said]


def test_broken_yaml_is_one_message_with_its_line(recipe: Path) -> None:
    said = complaint(recipe, "seed: 1\nstudent: {model: m\nteach: [\n")
    assert len(said) == 1 and said[0].startswith("recipe.yaml:") and "this is no YAML" in said[0]


def test_an_override_wins_over_the_recipe(recipe: Path) -> None:
    config = load_config(recipe, ["train.learning_rate=3e-4", "train.losses.0.weight=0.5", "sift.keep=0.9"])
    assert (config.train.learning_rate, config.train.losses[0].weight, config.sift.keep) == (3e-4, 0.5, 0.9)


def test_a_mistake_in_an_override_is_reported(recipe: Path) -> None:
    assert complaint(recipe, RECIPE, "train.lerning_rate=1") == [
        "--set train.lerning_rate=1: train.lerning_rate: unknown; did you mean learning_rate?"
    ]
    assert complaint(recipe, RECIPE, "rounds") == ["--set rounds: write it as section.key=value"]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.epochs=many", "--set train.epochs=many: train.epochs: is 'many'; use a number"),
        ("train={epochs: 0}", "--set train={epochs: 0}: train.epochs: is 0; use more than 0"),
        ("train.losses.1.weight=", "--set train.losses.1.weight=: train.losses.1.weight: is empty; use a number"),
        ("train=3", "--set train=3: train: is 3; use key: value pairs"),
        ("evaluate.teachers=maybe", "--set evaluate.teachers=maybe: evaluate.teachers: is 'maybe'; use true or false"),
        # 0.65 + 0.15 + 0.10 + 0.20 = 1.10: the section as a whole is wrong.
        (
            "curate.split.train=0.65",
            "recipe.yaml:1 with --set curate.split.train=0.65: curate.split: the shares sum to 1.1; make them sum to 1",
        ),
    ],
)
def test_a_wrong_value_from_the_command_line_is_not_blamed_on_a_line_of_the_recipe(
    recipe: Path, override: str, said: str
) -> None:
    assert complaint(recipe, RECIPE, "rounds=1", override) == [said]
    assert complaint(recipe, RECIPE.replace("seed: 3", "seed: no"), override)[0].startswith("recipe.yaml:1: seed: ")


def test_of_a_list_with_a_wrong_item_only_the_item_is_told(recipe: Path) -> None:
    assert complaint(recipe, RECIPE + "strength: {tried: [2.0]}\n") == [
        "recipe.yaml:11: strength.tried.0: is 2.0; use 1.5 or less"
    ]
    assert complaint(recipe, RECIPE + "strength: {tried: []}\n") == [
        "recipe.yaml:11: strength.tried: has 0 items; give at least 1"
    ]


def test_a_script_with_nothing_to_say_is_refused(recipe: Path) -> None:
    silent = RECIPE.replace("kind: recorded", "kind: scripted, script: [{say: []}]")
    assert complaint(recipe, silent) == ["recipe.yaml:5: teach.teachers.0.script.0.say: has 0 items; give at least 1"]


def test_a_reply_cannot_be_kept_from_below_where_it_is_weighed_down(recipe: Path) -> None:
    assert complaint(recipe, RECIPE + "sift: {keep: 0.3}\n") == [
        "recipe.yaml:11: sift: keep is 0.3, below downweight (0.4); use that or more"
    ]


@pytest.mark.parametrize(
    "override",
    [
        pytest.param("train.losses.9.weight=1", id="no such item on the way"),
        pytest.param("train.losses.9=decision", id="no such item"),
        pytest.param("train.losses.last=decision", id="an item by a word"),
        pytest.param("seed.deeper=1", id="below a number"),
        pytest.param("train.losses=[decision", id="broken YAML"),
        pytest.param("=3", id="no name"),
    ],
)
def test_an_override_that_fits_nowhere_is_one_message(recipe: Path, override: str) -> None:
    assert len(complaint(recipe, RECIPE, override)) == 1


def test_a_slip_in_what_a_profile_says_of_a_language_is_told_with_its_line(recipe: Path) -> None:
    profile = "judges:\n  profile:\n    languages:\n      de: {treshold: {bias: 0.1}}\n"
    # The recipe has ten lines.
    assert complaint(recipe, RECIPE + profile) == [
        "recipe.yaml:14: judges.profile.languages.de.treshold: unknown; did you mean thresholds?"
    ]


def test_a_recipe_that_is_not_utf_8_is_one_message(recipe: Path) -> None:
    recipe.write_bytes(b"seed: 1 # caf\xe9\n")
    with pytest.raises(InputError, match=r"recipe.yaml: byte 13 is not UTF-8; save it as UTF-8$"):
        load_config(recipe)


@pytest.mark.parametrize(
    "override",
    [
        pytest.param("rounds=0", id="no round"),
        pytest.param("train.batch_lessons=0", id="no lesson a step"),
        pytest.param("answer.max_tokens=0", id="replies of no token"),
        pytest.param("teach.draws=0", id="no draw"),
        pytest.param("student.adapter.rank=0", id="no rank"),
        pytest.param("curate.split.train=-1", id="a negative share"),
        # 0.65 + 0.15 + 0.10 + 0.20 = 1.10
        pytest.param("curate.split.train=0.65", id="shares of more than there is"),
        pytest.param(
            "curate.split={train: -0.1, probe: 0.3, validation: 0.4, exam: 0.4}", id="negative, but sums to 1"
        ),
    ],
)
def test_a_setting_that_cannot_work_is_refused_before_any_compute(recipe: Path, override: str) -> None:
    assert len(complaint(recipe, RECIPE, override)) == 1


@pytest.mark.parametrize("url", ["ftp://host/v1", "127.0.0.1:8000/v1", "https://", "http://host:port/v1", ""])
def test_an_address_that_is_not_of_the_web_is_refused_with_its_line(recipe: Path, url: str) -> None:
    served = RECIPE.replace("kind: recorded", f"kind: endpoint, model: m, base_url: ['http://a/v1', '{url}']")
    (line,) = complaint(recipe, served)
    assert line == (
        f"recipe.yaml:5: teach.teachers.0.base_url.1: is {url!r}; use an address as http://HOST:PORT/v1 or https://HOST/v1"
    )


def test_two_teachers_of_one_name_are_refused(recipe: Path) -> None:
    twice = RECIPE.replace(
        "- {name: expert, kind: recorded}", "- {kind: recorded, conducts: [refuse]}\n    - {kind: recorded}"
    )
    assert len(complaint(recipe, twice)) == 1


def test_a_teacher_with_an_empty_name_is_refused(recipe: Path) -> None:
    assert len(complaint(recipe, RECIPE.replace("name: expert", "name: ''"))) == 1


def test_a_saved_recipe_loads_to_the_same_tree(recipe: Path, tmp_path: Path) -> None:
    config = load_config(recipe, ["train.learning_rate=3e-4"])
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml") == config


MY_LOSS = """
from limbeck.losses.spec import Labels, Loss, Passes, Units

class MyLoss(Loss):
    '''How unlikely each token of a reply is, sharpened.'''
    sharpness: float = 1.0
    needs = frozenset({"reply"})
    over = "taught"
    def __call__(self, passes: Passes, labels: Labels) -> Units:
        return Units(-self.sharpness * passes.student.said(labels.tokens_N), self.weights(labels))
"""


def test_a_loss_of_the_users_own_is_read_from_its_file_and_saved_as_written(recipe: Path, tmp_path: Path) -> None:
    own = tmp_path / "my_file.py"
    own.write_text(MY_LOSS)
    recipe.write_text(RECIPE.replace("kind: forward_kl, temperature", f"kind: '{own}:MyLoss', sharpness"))
    config = load_config(recipe)
    assert config.train.losses[1].model_dump() == {"kind": f"{own}:MyLoss", "weight": 1.0, "sharpness": 2.0}
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml").train.losses[1].model_dump()["sharpness"] == 2.0


def test_the_users_own_code_belongs_to_what_a_stage_is_made_from(recipe: Path, tmp_path: Path) -> None:
    own = tmp_path / "my_file.py"
    own.write_text(MY_LOSS)
    recipe.write_text(RECIPE.replace("kind: forward_kl, temperature", f"kind: '{own}:MyLoss', sharpness"))
    before = fingerprint(load_config(recipe).train)
    own.write_text(MY_LOSS.replace("-self.sharpness", "self.sharpness"))
    assert fingerprint(load_config(recipe).train) != before


def test_a_missing_file_or_class_of_the_users_own_is_named(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "my_file.py").write_text(MY_LOSS + "class Half(Loss):\n    pass\n")
    for kind, said in (
        (f"{tmp_path}/no.py:MyLoss", "there is no file"),
        (f"{tmp_path}/my_file.py:Mine", "has no Loss called Mine"),
        (f"{tmp_path}/my_file.py:Half", "Half has no __call__ and no over, and a loss needs it"),
    ):
        (line,) = complaint(recipe, RECIPE.replace("kind: forward_kl, temperature: 2.0", f"kind: '{kind}'"))
        assert line.startswith("recipe.yaml:9: train.losses.1: ") and said in line


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("class MyLoss(\n", ":1: SyntaxError: '(' was never closed; mend it"),
        (
            "\nimport limbeck.no_such_part\n",
            ":2: ModuleNotFoundError: No module named 'limbeck.no_such_part'; mend it",
        ),
        ("def half():\n    return 1 / 0\n\nhalf()\n", ":2: ZeroDivisionError: division by zero; mend it"),
        ("from limbeck.errors import InputError\nraise InputError('no')\n", ":2: InputError: no; mend it"),
        ("raise SystemExit\n", ":1: SystemExit; mend it"),
        ("a = '\0'\n", ": SyntaxError: source code string cannot contain null bytes; mend it"),
    ],
)
def test_a_file_of_the_users_own_that_cannot_be_imported_is_told_with_its_line(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, said: str
) -> None:
    (tmp_path / "my_file.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    for kind in ("my_file.py:MyLoss", f"{tmp_path}/my_file.py:MyLoss"):
        (line,) = complaint(recipe, RECIPE, f"train.losses=[{{kind: '{kind}'}}]")
        assert line.endswith(f": train.losses.0: my_file.py{said}")


NOWHERE = """\
student: {model: smollm2-135m-instuct}
curate:
  sources: [starter, {kind: file, path: gone.jsonl}]
teach:
  teachers:
    - {name: expert, kind: recorded, replies: none.jsonl}
    - {name: other, kind: local, model: org/name, adapter: mine}
judges:
  judges:
    - {kind: rubric, rubric: refusal, model: {kind: local, model: ./nowhere}}
    - {kind: rubric, rubric: refusals, model: {kind: local, model: org/name}}
train:
  lerning_rate: 1e-4
"""


def test_models_and_files_that_are_nowhere_are_among_all_mistakes_at_once(recipe: Path) -> None:
    recipe.write_text(NOWHERE)
    with pytest.raises(InputError) as raised:
        load_config(recipe, ["teach.teachers.1.adapter=other"], there=RunConfig.model_fields)
    lines = str(raised.value).replace(f"{recipe.parent}/", "").splitlines()
    assert [line.partition(";")[0] for line in lines] == [
        "recipe.yaml:1: student.model: model 'smollm2-135m-instuct' is no folder here, no Hub id (org/name) and no "
        "short name",
        "recipe.yaml:3: curate.sources.1.path: gone.jsonl: there is no such file or folder",
        "recipe.yaml:6: teach.teachers.0.replies: none.jsonl: there is no such file or folder",
        "--set teach.teachers.1.adapter=other: teach.teachers.1.adapter: other: there is no such file or folder",
        "recipe.yaml:10: judges.judges.0.model.model: model './nowhere' is no folder here, no Hub id (org/name) and no "
        "short name",
        "recipe.yaml:11: judges.judges.1.rubric: 'refusals' is no file and none of those shipped",
        "recipe.yaml:13: train.lerning_rate: unknown",
    ]


def test_what_is_named_in_other_sections_than_those_asked_of_may_be_nowhere(recipe: Path) -> None:
    recipe.write_text(NOWHERE.replace("lerning", "learning"))
    assert load_config(recipe).student.model == "smollm2-135m-instuct"
    with pytest.raises(InputError, match=r"^\S+recipe.yaml:1: student.model: .* did you mean smollm2-135m-instruct\?$"):
        load_config(recipe, there=["student"])


@pytest.mark.parametrize("text", [RECIPE, "student: none\nteach: [1]\ncurate:\n", "teach: {teachers: {kind: 3}}\n"])
def test_a_tree_of_another_shape_names_nothing(recipe: Path, text: str) -> None:
    recipe.write_text(text.replace("some-model", "org/name"))
    told = []
    for there in ([], RunConfig.model_fields):
        try:
            load_config(recipe, there=there)
        except InputError as error:
            told.append(str(error))
    assert len(set(told)) <= 1


def test_a_key_left_empty_takes_nothing_by_surprise(recipe: Path) -> None:
    assert complaint(recipe, RECIPE + "sift:\n")[0].startswith("recipe.yaml:11: sift: ")


def test_defaults_are_written_out_when_saved(recipe: Path, tmp_path: Path) -> None:
    save_config(load_config(recipe), tmp_path / "saved.yaml")
    written = (tmp_path / "saved.yaml").read_text()
    assert all(f"{section}:" in written for section in RunConfig.model_fields)
    assert "downweight: 0.4" in written
