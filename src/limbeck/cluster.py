"""Models and judges that workers on a Ray cluster have open. Nothing but this file knows Ray."""

from __future__ import annotations

import logging
import os
import pickle
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cached_property, partial
from typing import Any, NamedTuple

from limbeck.errors import InputError, LimbeckError, Unreachable
from limbeck.models.encoder import MiniLM, ModelTools
from limbeck.protocols import (
    Batching,
    ChatModel,
    Continuation,
    Dtype,
    Exchange,
    Grading,
    JudgeSettings,
    Keeping,
    ModelSettings,
    RewardModel,
    Store,
    Target,
)
from limbeck.records import Reply, Request, Verdict
from limbeck.version import __version__

# Exchanges that one worker grades at a time: whole batches of every judge, so that rounding is what it is in one
# process. So many or fewer are graded here, in less time than a judge takes to open elsewhere.
PART_EXCHANGES = 128
# Seconds that the head of a cluster may take to answer at all.
KNOCK_S = 10.0
# Opens what a worker works with; and what it makes of one group with it.
Opens = Callable[[], AbstractContextManager[Any]]
Work = Callable[[Any, Any], Any]


class ClusterTools:
    """Tools that hand the work of shareable models and judges to the workers of a cluster."""

    def __init__(self, address: str, *, workers: int, cpus: float, gpus: float) -> None:
        self.address = address
        self.workers = workers
        self.cpus = cpus
        self.gpus = gpus
        self.here = ModelTools()
        self.joined = ExitStack()

    def __reduce__(self) -> tuple[Any, ...]:
        # Processes that train together judge a few replies now and then, each its own.
        return ModelTools, ()

    def close(self) -> None:
        """Leaves the cluster, and ends it where it was started for the run."""
        self.joined.close()

    def encoder(self) -> MiniLM:
        return self.here.encoder()

    def chat(self, settings: Mapping[str, Any]) -> AbstractContextManager[ChatModel]:
        return self.here.chat(settings)

    def reward(self, model: str, *, dtype: Dtype) -> AbstractContextManager[RewardModel]:
        return self.here.reward(model, dtype=dtype)

    @contextmanager
    def opened(self, model: ModelSettings) -> Iterator[ChatModel]:
        """The model on the workers. Raises Unreachable where there is no cluster."""
        if not model.shareable:
            with model.open() as here:
                yield here
            return
        yield ModelOfWorkers(self, model.open)

    @contextmanager
    def grading(self, judge: JudgeSettings, *, store: Store | None = None) -> Iterator[Grading]:
        """What the judge says, on the workers or here. Raises Unreachable where there is no cluster."""

        def grade(exchanges: Sequence[Exchange]) -> Iterator[Verdict]:
            if judge.shareable and len(exchanges) > PART_EXCHANGES:
                yield from self._graded(judge, exchanges)
                return
            with judge.open(self.here.keeping(store)) as opened:
                yield from opened.grade(exchanges)

        yield grade

    def _graded(self, judge: JudgeSettings, exchanges: Sequence[Exchange]) -> Iterator[Verdict]:
        parts = [exchanges[at : at + PART_EXCHANGES] for at in range(0, len(exchanges), PART_EXCHANGES)]
        early: dict[int, list[Verdict]] = {}
        due = 0
        for at, verdicts in self.each(partial(judge.open, self.here), _verdicts, parts):
            early[at] = verdicts
            while due in early:
                yield from early.pop(due)
                due += 1

    def each(self, opens: Opens, work: Work, groups: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """The position of each group, and what a worker makes of it, as it is done. Raises what a worker raises that is
        the user's to mend."""
        if not groups:
            return
        ray = self.ray
        rows = [{"at": at, "group": pickle.dumps(group)} for at, group in enumerate(groups)]
        # A group is a block, so that what is done comes at once and waits for no other.
        done = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            Worker,
            fn_constructor_args=(opens, work),
            # Nothing is queued at a worker while another one is free.
            compute=ray.data.ActorPoolStrategy(size=min(self.workers, len(rows)), max_tasks_in_flight_per_actor=1),
            num_cpus=self.cpus,
            num_gpus=self.gpus,
        )
        try:
            for row in done.iter_rows():
                made = pickle.loads(row["made"])
                if isinstance(made, LimbeckError):
                    raise made
                yield row["at"], made
        except ray.exceptions.RayTaskError:
            # A bug, with the worker's traceback.
            raise
        except ray.exceptions.RayError as error:
            raise Unreachable(
                f"engine: the Ray cluster at {self.address} did not do its work ({_last_line(error)}); see that its "
                "machines run and have the memory, then give the same command again: a run keeps what was done"
            ) from error

    @cached_property
    def ray(self) -> Any:
        """Ray, once the cluster is joined and seen to be able to do the work."""
        # Ray reports its use to its makers, and its C++ writes to the console, unless it is told not to.
        os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
        import ray
        import ray.data

        self._join(ray)
        for name in ("ray", "ray.data"):
            logging.getLogger(name).setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        check_room(ray.cluster_resources(), workers=self.workers, cpus=self.cpus, gpus=self.gpus)
        check_versions(_versions())
        return ray

    def _join(self, ray: Any) -> None:
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self.address == "local":
            # The path of a socket may have no more than 107 characters.
            folder = tempfile.mkdtemp(prefix="limbeck-ray-", dir="/tmp")
            self.joined.callback(shutil.rmtree, folder, ignore_errors=True)
            quiet |= {"_temp_dir": folder, "include_dashboard": False}
        try:
            # Left to itself, Ray knocks for minutes where nobody listens.
            if place := re.fullmatch(r"(.+):(\d+)", self.address):
                socket.create_connection((place[1], int(place[2])), timeout=KNOCK_S).close()
            ray.init(self.address, **quiet)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise Unreachable(
                f"engine: there is no Ray cluster at {self.address} ({_last_line(error)}); start one with `ray start "
                "--head`, name its address, or use address: local for this machine alone"
            ) from error
        self.joined.callback(ray.shutdown)


def _versions() -> dict[str, str | None]:
    """Limbeck's version on each machine of the cluster, by its address; None where it is not installed."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Nested, so that it travels as it is: a machine without Limbeck could not look it up.
    def version() -> str | None:
        try:
            from limbeck.version import __version__
        except ImportError:
            return None
        return __version__

    asked = {
        node["NodeManagerAddress"]: ray.remote(version)
        .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
        .remote()
        for node in ray.nodes()
        if node["Alive"]
    }
    return dict(zip(asked, ray.get(list(asked.values())), strict=True))


def check_versions(found: Mapping[str, str | None]) -> None:
    """Raises InputError that names each machine of the cluster without this version of Limbeck."""
    wrong = [f"{machine} has {version or 'none'}" for machine, version in found.items() if version != __version__]
    if wrong:
        raise InputError(
            f"engine: every machine of the Ray cluster needs limbeck {__version__}, as here: {'; '.join(wrong)}; "
            "install it in the environment that `ray start` runs in, and start Ray there again"
        )


def check_room(resources: Mapping[str, float], *, workers: int, cpus: float, gpus: float) -> None:
    """Raises InputError where all workers do not fit on the cluster: those that do would wait for the rest."""
    for name, wanted in (("CPU", workers * cpus), ("GPU", workers * gpus)):
        if wanted > (there := resources.get(name, 0.0)):
            raise InputError(
                f"engine: {workers} workers want {wanted:g} {name}s, the Ray cluster has {there:g}; lower workers or "
                f"{name.lower()}s, or add machines"
            )


class Worker:
    """A process of the cluster: opens the model for its first group, and keeps it open."""

    def __init__(self, opens: Opens, work: Work) -> None:
        self.opens = opens
        self.work = work
        self.stack = ExitStack()
        self.opened: Any = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """What is made of the row's group, or what is the user's to mend."""
        try:
            if self.opened is None:
                self.opened = self.stack.enter_context(self.opens())
            made = self.work(self.opened, pickle.loads(row["group"]))
        except LimbeckError as error:
            made = error
        return {"at": row["at"], "made": pickle.dumps(made)}


class Known(NamedTuple):
    """What a model on the workers is known by."""

    name: str
    identity: str
    vocabulary: str


class ModelOfWorkers:
    """A model that each worker has open. Every asking opens it anew, as Ray Data starts its workers anew."""

    def __init__(self, cluster: ClusterTools, opens: Opens) -> None:
        self.cluster = cluster
        self.opens = opens
        ((_, known),) = cluster.each(opens, _known, [None])
        self.name, self.identity, self.vocabulary = known

    def reply_batches(self, requests: Sequence[Request]) -> list[list[Request]]:
        """The requests in the batches of the model."""
        ((_, batches),) = self.cluster.each(self.opens, _batches, [requests])
        return list(batches)

    def replies_of(self, groups: Sequence[Sequence[Request]]) -> Iterator[Reply]:
        """One reply a request, group by group as they are done."""
        for _, replies in self.cluster.each(self.opens, _replies, groups):
            yield from replies

    def replies(self, requests: Sequence[Request]) -> Iterator[Reply]:
        """One reply a request, all by one worker."""
        yield from self.replies_of([requests])

    def targets_of(
        self, groups: Sequence[Sequence[Continuation]], keep: Keeping
    ) -> Iterator[tuple[int, Iterable[tuple[str, Target]]]]:
        """What is kept of the distributions behind each reply, with the position of its group, as they are done."""
        yield from self.cluster.each(self.opens, partial(_targets, keep=keep), groups)


def _known(model: Any, _: None) -> Known:
    return Known(model.name, model.identity, model.vocabulary)


def _batches(model: Batching, requests: Sequence[Request]) -> list[list[Request]]:
    return model.reply_batches(requests)


def _replies(model: ChatModel, requests: Sequence[Request]) -> list[Reply]:
    return list(model.replies(requests))


def _targets(model: Any, replies: Sequence[Continuation], *, keep: Keeping) -> list[tuple[str, Target]]:
    return list(keep(model, replies))


def _verdicts(judge: Any, exchanges: Sequence[Exchange]) -> list[Verdict]:
    return list(judge.grade(exchanges))


def _last_line(error: Exception) -> str:
    """What an error of Ray says in the end; before that stand its traceback and what a worker was doing."""
    return str(error).strip().splitlines()[-1][:300] if str(error).strip() else type(error).__name__
