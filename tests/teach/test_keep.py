"""What is kept of a distribution: the same whatever the batch, and never that of another teacher."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from limbeck.config import RunConfig
from limbeck.errors import InputError
from limbeck.losses import LOSSES
from limbeck.losses.cross_tokenizer import CrossTokenizer
from limbeck.losses.forward_kl import ForwardKL
from limbeck.losses.spec import Loss
from limbeck.models.endpoint import Endpoint
from limbeck.models.local import Local, uniform
from limbeck.needs import check_needs
from limbeck.protocols import Continuation
from limbeck.records import Lesson, Prompt, asked
from limbeck.spec import fingerprint
from limbeck.targets.cache import Targets
from limbeck.targets.drawn import drawn
from limbeck.targets.ragged import rectangle
from limbeck.teach.keep import KEEPS, Keep, Sampled, Top
from limbeck.teach.score import score
from limbeck.teach.settings import Mixture, TeachSettings
from limbeck.training import TrainSettings
from limbeck.training.student import StudentSettings
from limbeck.workspace import StageStore, Workspace


def lesson(reply: str) -> Lesson:
    return Lesson(prompt=Prompt(messages=asked("Why?")), reply=reply, teacher="teacher")


# The second is longer than the rows that meet the head at once.
LESSONS = (lesson("Fine."), lesson("Because it is so, I am told. " * 4), lesson("No."))


def local(model: Path, **more: Any) -> Local:
    return Local(name="teacher", model=str(model), **more)


def kept(keep: Keep, teacher: Local, store: StageStore, name: str, *lessons: Lesson) -> Targets:
    settings = TeachSettings(teachers=(teacher,), keep=keep)
    base = Local(name="base", model=teacher.model)
    return Targets(score(settings, base, lessons, None, store=replace(store, root=store.root / name)).folders)


def test_what_is_drawn_hangs_on_the_lesson_and_the_position_alone(store: StageStore, tiny_model: Path) -> None:
    together = kept(Sampled(), local(tiny_model), store, "a", *LESSONS)
    narrow = kept(Sampled(), local(tiny_model, batch_tokens=1), store, "b", *reversed(LESSONS))
    alone = kept(Sampled(), local(tiny_model), store, "c", LESSONS[1])[LESSONS[1].id]
    for one in LESSONS:
        assert torch.equal(together[one.id].ids_NK, narrow[one.id].ids_NK)
    assert torch.equal(together[LESSONS[1].id].ids_NK, alone.ids_NK)
    # As if the whole reply had been drawn for at once.
    with local(tiny_model).open() as model:
        told = Continuation("x", LESSONS[1].prompt.messages, LESSONS[1].reply or "", ends=True)
        ((_, hidden_NH),) = model.places([told])
        logprobs_NV = model.logprobs(hidden_NH)
    noise_N = torch.tensor([uniform(LESSONS[1].id, at) for at in range(len(logprobs_NV))], dtype=torch.float64)
    whole = drawn(logprobs_NV, noise_N, draws=50, exponent=1.0)
    nothing_N = torch.full((len(logprobs_NV),), -torch.inf)
    expected = rectangle(*whole, nothing_N, width=int(whole.sizes_N.max()))
    assert torch.equal(alone.ids_NK, expected.ids_NK)
    torch.testing.assert_close(alone.logprobs_NK.exp(), expected.logprobs_NK.exp(), rtol=3e-3, atol=0)


def test_with_many_draws_it_is_the_mixture_of_the_teachers(
    store: StageStore, tiny_model: Path, wide_model: Path
) -> None:
    teachers = (local(tiny_model), Local(name="other", model=str(wide_model), conducts=()))
    mixture = Mixture(weights={"teacher": 1, "other": 3})
    base = Local(name="base", model=str(tiny_model))
    found = []
    for keep in (Sampled(draws=20_000, exponent=0.8), Top(ids=258)):
        settings = TeachSettings(teachers=teachers, mixture=mixture, keep=keep)
        made = score(settings, base, LESSONS[:1], None, store=replace(store, root=store.root / keep.kind))
        target = Targets(made.folders)[LESSONS[0].id]
        found.append(torch.zeros(len(target.ids_NK), 258).scatter(1, target.ids_NK, target.logprobs_NK.exp()))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=2e-3)


def weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    (file,) = folder.glob("*.safetensors")
    save_file({name: 1.1 * tensor for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})


def tokenizer(folder: Path) -> None:
    said = json.loads((folder / "tokenizer.json").read_text())
    # The vocabulary stays, and so does the number of tokens.
    (folder / "tokenizer.json").write_text(json.dumps({**said, "normalizer": {"type": "Lowercase"}}))


def template(folder: Path) -> None:
    file = folder / "chat_template.jinja"
    assert "message['role']" in file.read_text()
    file.write_text(file.read_text().replace("message['role']", "message['role'] | upper"))


@pytest.mark.parametrize("change", [weights, tokenizer, template])
def test_a_changed_teacher_never_finds_what_the_old_one_said(
    change: Callable[[Path], None], tiny_model: Path, tmp_path: Path, tools: Any
) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    settings = TeachSettings(teachers=(local(folder),), keep=Top(ids=4))
    base = Local(name="base", model=str(tiny_model))
    with Workspace(tmp_path / "run", seed=0, tools=tools).open() as work:
        first, again = (work.keep("targets", score, settings, base, LESSONS, None) for _ in range(2))
        change(folder)
        second = work.keep("targets", score, settings, base, LESSONS, None)
    assert first.folders == again.folders and not set(first.folders) & set(second.folders)
    before, after = (Targets(made.folders)[LESSONS[1].id] for made in (first, second))
    assert not torch.equal(before.logprobs_NK, after.logprobs_NK)


@pytest.mark.parametrize("change", [tokenizer, template])
def test_a_changed_student_never_finds_targets_of_its_old_tokens(
    change: Callable[[Path], None], tiny_model: Path, tmp_path: Path, tools: Any
) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    settings = TeachSettings(teachers=(local(tiny_model),), keep=Top(ids=4))
    base = Local(name="base", model=str(folder))
    with Workspace(tmp_path / "run", seed=0, tools=tools).open() as work:
        first = work.keep("targets", score, settings, base, LESSONS, None)
        change(folder)
        assert not set(work.keep("targets", score, settings, base, LESSONS, None).folders) & set(first.folders)


def test_another_revision_adapter_or_server_tokenizer_is_another_teacher(tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    teachers: list[Callable[[], Any]] = [
        lambda: Local(model="org/name@first"),
        lambda: Local(model="org/name@second"),
        lambda: Local(model="org/name", adapter=folder),
        lambda: Endpoint(model="m", base_url="http://x/v1", soft_labels="top_logprobs", tokenizer=str(folder)),
    ]
    before = [fingerprint(TeachSettings(teachers=(one().model_copy(update={"name": "t"}),))) for one in teachers]
    template(folder)
    after = [fingerprint(TeachSettings(teachers=(one().model_copy(update={"name": "t"}),))) for one in teachers]
    assert len(set(before)) == 4
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, True, False, False]


def config(model: Path, loss: Loss, keep: Keep, *, teacher: Any = None, read: str = "cached") -> RunConfig:
    learn = TrainSettings.model_validate({"losses": [loss], "teacher": read})
    teach = TeachSettings(teachers=(teacher or local(model),), keep=keep)
    return RunConfig(student=StudentSettings(model=str(model)), teach=teach, train=learn)


@pytest.mark.parametrize("kind", [kind for kind, one in LOSSES.items() if "distribution" in one.needs])
def test_only_a_loss_that_is_linear_in_the_teacher_learns_from_drawn_ids(kind: str, tiny_model: Path) -> None:
    loss = LOSSES[kind]()
    check_needs(config(tiny_model, loss, Top()))
    check_needs(config(tiny_model, loss, Sampled(), read="live"))
    if kind == "forward_kl":
        check_needs(config(tiny_model, loss, Sampled()))
        loss = ForwardKL(temperature=2.0)
    with pytest.raises(InputError, match=rf"teach.keep: sampled draws ids at random, and loss '{kind}' as it is set"):
        check_needs(config(tiny_model, loss, Sampled()))


def test_drawn_ids_are_refused_across_tokenizers(tiny_model: Path) -> None:
    check_needs(config(tiny_model, CrossTokenizer(), Top()))
    with pytest.raises(InputError, match=r"loss 'cross_tokenizer' as it is set would .*; use teach.keep: top$"):
        check_needs(config(tiny_model, CrossTokenizer(), Sampled()))


def test_a_server_that_gives_the_likeliest_ids_has_nothing_to_draw_from(tiny_model: Path) -> None:
    far = Endpoint(name="far", model="m", base_url="http://x/v1", soft_labels="top_logprobs", tokenizer=str(tiny_model))
    check_needs(config(tiny_model, ForwardKL(), Top(), teacher=far))
    with pytest.raises(InputError, match=r"sampled needs a whole distribution; 'far' \(endpoint\) offers distribution"):
        check_needs(config(tiny_model, ForwardKL(), Sampled(), teacher=far))


def test_a_way_to_keep_survives_being_saved() -> None:
    for member in KEEPS.values():
        assert KEEPS.read(member().model_dump(mode="json")) == member()
