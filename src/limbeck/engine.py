"""Where the models and judges that need no server do their work: in this process, or on a cluster."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny

from limbeck.models.encoder import ModelTools
from limbeck.protocols import Tools
from limbeck.spec import Kind, Table


class Engine(Kind):
    """Who does the work; it changes nothing of what comes of it."""

    @abstractmethod
    def tools(self) -> AbstractContextManager[Tools]:
        """What the stages open models and judges with, until the block ends."""


class Here(Engine):
    """This process."""

    kind: Literal["here"] = "here"

    @contextmanager
    def tools(self) -> Iterator[Tools]:
        """All in this process."""
        yield ModelTools()


class Ray(Engine):
    """Workers on a Ray cluster, by Ray Data: each has the model open, on so many CPUs and GPUs of its own.

    `address` is that of the cluster, `auto` the one that this machine belongs to, `local` one of this machine alone,
    started for the run. Teachers and judges with weights of their own are computed there, and soft labels by one of
    them; servers are asked from here.
    """

    kind: Literal["ray"] = "ray"
    address: str = Field(default="auto", min_length=1)
    workers: int = Field(default=2, ge=1)
    cpus: float = Field(default=1, gt=0)
    gpus: float = Field(default=0, ge=0)

    @contextmanager
    def tools(self) -> Iterator[Tools]:
        """The cluster, which is joined when the first model is opened."""
        from limbeck.cluster import ClusterTools

        cluster = ClusterTools(self.address, workers=self.workers, cpus=self.cpus, gpus=self.gpus)
        try:
            yield cluster
        finally:
            cluster.close()


ENGINES: Table[Engine] = Table("engine", Engine, Here, Ray)
AnyEngine = Annotated[SerializeAsAny[Engine], BeforeValidator(ENGINES.read)]
