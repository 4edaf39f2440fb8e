"""What is computed on a cluster is what is computed in this process."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from limbeck import load_config
from limbeck.cluster import PART_EXCHANGES, ClusterTools, Worker, check_room, check_versions
from limbeck.config import RunConfig
from limbeck.engine import Here, Ray
from limbeck.errors import InputError, Unreachable
from limbeck.judges import asking, refusal, reward
from limbeck.judges.guards import LlamaGuard
from limbeck.judges.jury import Jury
from limbeck.judges.refusal import Refusal
from limbeck.models.encoder import ModelTools
from limbeck.models.local import Local
from limbeck.models.scripted import Line, Scripted, ScriptedModel
from limbeck.needs import check_packages
from limbeck.pipeline import run_until
from limbeck.protocols import Exchange
from limbeck.records import Lesson, Prompt, asked
from limbeck.targets.cache import PART_LESSONS, Targets
from limbeck.teach.keep import Keep, Sampled, Top
from limbeck.teach.score import score
from limbeck.teach.settings import TeachSettings
from limbeck.version import __version__
from limbeck.workspace import Silent, StageStore


class Opening:
    """Counts how often it was opened; is itself what is open."""

    def __init__(self) -> None:
        self.times = 0

    @contextmanager
    def __call__(self) -> Iterator[Opening]:
        self.times += 1
        yield self


def test_a_recipe_that_says_nothing_is_done_here() -> None:
    assert RunConfig.model_validate({"student": {"model": "m"}}).engine == Here()
    config = RunConfig.model_validate({"student": {"model": "m"}, "engine": {"kind": "ray", "workers": 3}})
    assert config.engine == Ray(address="auto", workers=3, cpus=1, gpus=0)
    with pytest.raises(ValidationError, match="unknown engine 'rya'; did you mean ray"):
        RunConfig.model_validate({"student": {"model": "m"}, "engine": "rya"})


def test_a_worker_opens_its_model_once_for_all_groups() -> None:
    opening = Opening()
    worker = Worker(opening, lambda opened, group: [opened.times, *group])
    made = [worker({"at": at, "group": pickle.dumps(group)}) for at, group in enumerate([["a"], ["b", "c"]])]
    assert [(row["at"], pickle.loads(row["made"])) for row in made] == [(0, [1, "a"]), (1, [1, "b", "c"])]


def test_what_is_the_users_to_mend_comes_back_from_a_worker_as_it_was_said() -> None:
    def work(opened: Any, group: Any) -> None:
        raise InputError("model 'x': there is no such folder")

    said = pickle.loads(Worker(Opening(), work)({"at": 0, "group": pickle.dumps([])})["made"])
    assert isinstance(said, InputError) and str(said) == "model 'x': there is no such folder"


def test_who_asks_a_server_stays_here_and_who_has_weights_does_not() -> None:
    cluster = ClusterTools("nowhere", workers=2, cpus=1, gpus=0)
    with cluster.opened(Scripted(script=(Line(say=("Yes.",)),))) as model:
        assert isinstance(model, ScriptedModel)
    endpoint = {"kind": "endpoint", "model": "guard", "base_url": "http://a/v1"}
    assert not LlamaGuard(model=endpoint).shareable
    assert LlamaGuard(model={"kind": "local", "model": "guard"}).shareable and Refusal().shareable
    assert not Jury(judges=(Refusal(), LlamaGuard(model=endpoint))).shareable


class OneByOne(ClusterTools):
    """A cluster whose workers are asked here, one after the other, the last group first; all travels as pickles."""

    def each(self, opens: Any, work: Any, groups: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        worker = Worker(*pickle.loads(pickle.dumps((opens, work))))
        for at, group in reversed(list(enumerate(groups))):
            yield at, pickle.loads(worker({"at": at, "group": pickle.dumps(group)})["made"])


@pytest.mark.parametrize("keep", [Top(ids=4), Sampled(draws=8)], ids=lambda keep: keep.kind)
def test_workers_keep_of_distributions_what_is_kept_here(keep: Keep, tiny_model: Path, store: StageStore) -> None:
    teacher = Local(name="teacher", model=str(tiny_model))
    lessons = [
        Lesson(prompt=Prompt(messages=asked(f"Question {number}?")), reply="Yes.", teacher="teacher")
        for number in range(PART_LESSONS + 1)
    ]
    cluster = OneByOne("nowhere", workers=1, cpus=1, gpus=0)
    here, there = (
        Targets.of(score(TeachSettings(teachers=(teacher,), keep=keep), teacher, lessons, None, store=one))
        for one in (store, replace(store, tools=cluster, root=store.root / "there"))
    )
    assert len(here) == len(lessons)
    for lesson in lessons:
        assert all(torch.equal(a, b) for a, b in zip(here[lesson.id], there[lesson.id], strict=True))


def test_a_few_replies_are_graded_here(judge: Any) -> None:
    cluster = ClusterTools("nowhere", workers=2, cpus=1, gpus=0)
    with cluster.grading(judge) as grade:
        (verdict,) = grade([Exchange("a", "How?", "0.9 No.")])
    assert verdict.p_refused == 0.9


def test_a_part_is_whole_batches_of_every_judge() -> None:
    assert [PART_EXCHANGES % batch for batch in (refusal.BATCH, asking.BATCH, reward.BATCH)] == [0, 0, 0]


def test_processes_that_train_together_judge_for_themselves() -> None:
    assert isinstance(pickle.loads(pickle.dumps(ClusterTools("auto", workers=2, cpus=1, gpus=0))), ModelTools)


def test_a_machine_without_this_limbeck_is_named_with_what_to_do() -> None:
    check_versions({"10.0.0.1": __version__})
    with pytest.raises(InputError, match=rf"limbeck {__version__}, as here: 10.0.0.2 has none; 10.0.0.3 has 0.0.1;"):
        check_versions({"10.0.0.1": __version__, "10.0.0.2": None, "10.0.0.3": "0.0.1"})


def test_workers_that_do_not_fit_are_refused_before_they_wait_for_one_another() -> None:
    check_room({"CPU": 4.0}, workers=4, cpus=1, gpus=0)
    with pytest.raises(InputError, match="4 workers want 8 CPUs, the Ray cluster has 4; lower workers or cpus"):
        check_room({"CPU": 4.0}, workers=4, cpus=2, gpus=0)
    with pytest.raises(InputError, match="2 workers want 1 GPUs, the Ray cluster has 0; lower workers or gpus"):
        check_room({"CPU": 4.0}, workers=2, cpus=1, gpus=0.5)


def test_a_missing_ray_is_told_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    config = RunConfig.model_validate({"student": {"model": "m"}, "engine": "ray"})
    with pytest.raises(InputError, match=r"engine.kind ray needs the package ray; run: pip install 'limbeck\[ray\]'"):
        check_packages(config)


RECIPE = """
seed: 3
rounds: 1
student: {{model: "{tiny}"}}
curate: {{sources: [{{kind: starter, practice: false, usefulness: false}}], limit: 400}}
teach:
  teachers:
    - {{name: expert, kind: context, model: "{tiny}", policy: "Be kind."}}
  at_most: 300
  draws: 2
  max_tokens: 8
sift: {{keep: 0.1, downweight: 0.05}}
"""
LOCAL = ("engine.kind=ray", "engine.address=local")


def made(recipe: Path, folder: Path, *settings: str, progress: Any = None) -> dict[str, Sequence[str]]:
    """The rows of each stage as far as the soft targets."""
    run_until(load_config(recipe, settings), folder, stage="targets", progress=progress)
    stages = ("candidates", "verdicts", "lessons")
    return {
        name: "".join(file.read_text() for file in sorted(folder.glob(f"round-0/{name}-*/rows-*.jsonl"))).splitlines()
        for name in stages
    }


class Killing(Silent):
    """Dies when so many items of a stage have come."""

    def __init__(self, label: str, after: int) -> None:
        self.label = label
        self.after = after

    def track(self, label: str, items: Any, *, total: int) -> Iterator[Any]:
        for number, item in enumerate(items):
            if label == self.label and number == self.after:
                raise KeyboardInterrupt
            yield item


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many as Ray gives a worker; two round a judge's probabilities otherwise, in the last digits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.model
@pytest.mark.usefixtures("one_thread")
def test_workers_make_the_candidates_verdicts_and_soft_targets_of_one_process(tmp_path: Path, tiny_model: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra: pip install 'limbeck[ray]'")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(tiny=tiny_model))
    here, there = tmp_path / "here", tmp_path / "there"
    expected = made(recipe, here)
    # More than one group to share, and a kill in their midst loses nothing of what comes of them.
    assert len(expected["candidates"]) > 2 * 256 and len(expected["verdicts"]) > 2 * PART_EXCHANGES
    with pytest.raises(KeyboardInterrupt):
        made(recipe, there, *LOCAL, progress=Killing("expert replies", 200))
    assert made(recipe, there, *LOCAL) == expected
    one, other = (Targets(sorted(folder.glob("round-0/targets-*/targets"))) for folder in (here, there))
    assert set(one) == set(other) and len(one) > 64
    for lesson in one:
        assert all(torch.equal(a, b) for a, b in zip(one[lesson], other[lesson], strict=True))


@pytest.mark.model
@pytest.mark.parametrize("address", ["auto", "127.0.0.1:1"])
def test_a_cluster_that_is_not_there_is_one_message_and_exit_code_3(address: str) -> None:
    pytest.importorskip("ray", reason="needs the extra: pip install 'limbeck[ray]'")
    with (
        Ray(address=address).tools() as tools,
        pytest.raises(Unreachable, match=rf"no Ray cluster at {address} .*start one with `ray start --head`") as error,
        tools.grading(Refusal()) as grade,
    ):
        list(grade([Exchange(str(at), "How?", "So.") for at in range(PART_EXCHANGES + 1)]))
    assert error.value.exit_code == 3
