"""What computes and takes the steps of a training, with other processes where there are any."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from limbeck.errors import InputError
from limbeck.processes import check_together
from limbeck.protocols import LiveTeacher, Store
from limbeck.training import TrainSettings
from limbeck.training.objective import Objective
from limbeck.training.probe import Outcome, Probe
from limbeck.training.state import Moving
from limbeck.training.step import Scaled, StepFigures, run_step
from limbeck.training.student import Student
from limbeck.training.units import MicroBatch

# What accelerate calls those that leave each process a part of the parameters.
SHARDING = frozenset({"FSDP", "DEEPSPEED", "MEGATRON_LM"})


class Stepper(NamedTuple):
    """The objective as processes share it, and all that its steps move."""

    accelerator: Accelerator
    objective: nn.Module
    scaled: Scaled
    moving: Moving

    @classmethod
    def of(
        cls, settings: TrainSettings, learner: Student, live: LiveTeacher | None, *, steps: int, store: Store
    ) -> Stepper:
        """For so many steps, at their beginning. Raises InputError where processes do not train together."""
        accelerator = Accelerator(
            mixed_precision="no",
            cpu=not torch.cuda.is_available(),
            log_with=list(settings.track) or None,
            project_dir=store.folder("track") if settings.track else None,
        )
        check_together(accelerator.num_processes)
        if (kind := accelerator.distributed_type.value) in SHARDING:
            raise InputError(
                f"{kind} through accelerate is not supported: what it shards is not saved; use torchrun, or accelerate "
                "launch without it"
            )
        accelerator.init_trackers("limbeck")
        # The maps of hidden states begin at random where both sides are not equally wide.
        torch.manual_seed(store.seed)
        objective = Objective(learner.model, settings.losses, apart=settings.balance.apart, live=live)
        parameters = [*learner.trainable(), *objective.maps.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, partial(learning_rate_share, steps=steps, warmup=math.ceil(settings.warmup * steps))
        )
        objective, optimizer = accelerator.prepare(objective, optimizer)
        objective.train()
        scaler = torch.amp.GradScaler(accelerator.device.type, enabled=settings.precision == "float16")
        moving = Moving(parameters, optimizer, schedule, scaler)
        return cls(accelerator, objective, Scaled(scaler, optimizer), moving)

    @property
    def is_scaled(self) -> bool:
        """Whether gradients are scaled up, so that they may overflow."""
        return self.scaled.factor(self.accelerator.device) > 1

    def outcomes(self, probe: Probe) -> list[Outcome]:
        """What a probe finds, each process with its share of the prompts."""
        mine = list(probe.outcomes(self.accelerator.process_index, of=self.accelerator.num_processes))
        found: list[Outcome] = gather_object(mine)
        return found

    def step(self, settings: TrainSettings, batches: Sequence[MicroBatch], *, noise_pull: float) -> StepFigures:
        """The gradients of a step, left on the parameters."""
        return run_step(
            self.objective,
            settings.losses,
            batches,
            self.moving.parameters,
            self.accelerator,
            clip=settings.clip,
            apart=settings.balance.apart,
            noise_pull=noise_pull,
            scaled=self.scaled,
        )


def learning_rate_share(step: int, *, steps: int, warmup: int) -> float:
    """Share of the full learning rate at a step (from 0): linear up to `warmup`, then half a cosine; never 0."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
