"""Lessons and soft targets in, a trained adapter out."""

from __future__ import annotations

from types import MappingProxyType
from typing import Literal, Self

from pydantic import Field, model_validator

from limbeck.losses import AnyLoss
from limbeck.losses.cross_entropy import CrossEntropy
from limbeck.losses.decision import Decision
from limbeck.losses.forward_kl import ForwardKL
from limbeck.losses.spec import Needs
from limbeck.losses.unlikelihood import Unlikelihood
from limbeck.models.precision import Precision
from limbeck.models.reasoning import Reasoning
from limbeck.spec import Spec
from limbeck.training.balance import AnyBalance, Plain
from limbeck.training.curriculum import AnyCurriculum, Flat
from limbeck.training.lessons import LessonFile, Supervised
from limbeck.training.probe import ROBUSTNESS, ProbeSettings

# What accelerate can hand figures to; each is a package of that name.
Tracker = Literal["tensorboard", "wandb", "trackio", "mlflow"]


class TrainSettings(Spec):
    """What the student minimises, and for how long.

    `batch_lessons` make one optimizer step; it is cut into micro-batches of at most `micro_batch_tokens`.
    `later_round_lessons` is how many lessons a round after the first trains on: the new ones first, then a
    sample of the old; `later_round_rate` is its share of the learning rate, since few lessons at the full rate undo
    what many have taught. `precision` is what the backbone computes in
    (`auto`: bfloat16 where the machine multiplies in it, else float32); what is trained stays in float32. In float16
    gradients are scaled up so that small ones do not vanish, and a step in which they overflow is left out.
    With `reasoning: then_answer` the student learns to write the lesson's reasoning before the reply, between its tags;
    a token of it counts `reasoning_weight` times as much as one of the answer, and with 0 it is read and not learnt.
    `extra` are files of ready lessons that are mixed in, `supervise` says which turns of the assistant in their chats
    are learnt; `track` hands the figures of each step to other programs too.
    With `gradient_checkpointing` the backward pass computes each layer anew: less memory, more time.

    Distributions come from the `cached` soft targets that were scored once, or from the `live` teacher, all of its
    vocabulary, which is read beside the student in every step.

    `balance` says how hard each lesson pulls, `curriculum` which are taught when. Where one of them measures, `probe`
    says how; `keep: best` then keeps the adapter that violated the bounds least (of equals the one that tells harmful
    prompts and twins apart best) in place of the last, and `stop_when_met` ends the training once so many probes in a
    row met every bound with all tiers open.
    """

    elsewhere = MappingProxyType({
        "num_train_epochs": "epochs",
        "num_epochs": "epochs",
        "lr": "learning_rate",
        "warmup_ratio": "warmup (a share of the steps)",
        "warmup_steps": "warmup (a share of the steps)",
        "max_grad_norm": "clip",
        "bf16": "precision: bfloat16",
        "fp16": "precision: float16",
        "batch_size": "batch_lessons",
        "train_batch_size": "batch_lessons",
        "per_device_train_batch_size": "batch_lessons (of the whole step; micro_batch_tokens cuts it)",
        "gradient_accumulation_steps": "micro_batch_tokens (a step of batch_lessons is cut into as many as it needs)",
        "report_to": "track",
        "save_steps": "save_every_s",
        "eval_steps": "probe.every_steps",
        "load_best_model_at_end": "keep: best",
        "seed": "the recipe's own seed, beside train",
        "adapter": "student.adapter",
        "peft_config": "student.adapter",
        "packing": "always on: sequences share rows up to micro_batch_tokens",
        "max_length": "the student's context; a longer lesson is an error that names it",
        "max_seq_length": "the student's context; a longer lesson is an error that names it",
    })  # fmt: skip

    losses: tuple[AnyLoss, ...] = Field(
        default=(CrossEntropy(), ForwardKL(weight=0.5), Decision(), Unlikelihood(weight=0.1)), min_length=1
    )
    epochs: float = Field(default=2.0, gt=0)
    max_steps: int | None = Field(default=None, ge=1)
    later_round_lessons: int = Field(default=180, ge=1)
    later_round_rate: float = Field(default=0.2, gt=0)
    learning_rate: float = Field(default=2e-4, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    clip: float = Field(default=1.0, gt=0)
    batch_lessons: int = Field(default=16, ge=1)
    micro_batch_tokens: int = Field(default=512, ge=1)
    precision: Precision = "float32"
    gradient_checkpointing: bool = False
    reasoning: Literal["answer_only", "then_answer"] = "answer_only"
    reasoning_weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    supervise: Supervised = "last"
    extra: tuple[LessonFile, ...] = ()
    track: tuple[Tracker, ...] = ()
    teacher: Literal["cached", "live"] = "cached"
    balance: AnyBalance = Plain()
    curriculum: AnyCurriculum = Flat()
    probe: ProbeSettings = ProbeSettings()
    keep: Literal["last", "best"] = "last"
    stop_when_met: int | None = Field(default=None, ge=1)
    save_every_s: float = Field(default=30.0, gt=0)

    @property
    def asks_live(self) -> bool:
        """Whether a teacher is read beside the student in every step."""
        return self.teacher == "live" and bool(self.who_needs("distribution") or self.who_needs("states"))

    def reasons(self, own: Reasoning) -> Reasoning | None:
        """How a student with tags of its own learns to reason; None where it learns the answer alone."""
        return own if self.reasoning == "then_answer" else None

    @property
    def measures(self) -> bool:
        """Whether the student is measured on the validation split while it trains."""
        return bool(self.balance.bounds) or self.curriculum.measures or self.keep == "best"

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        if self.stop_when_met is not None and not self.balance.bounds:
            raise ValueError("stop_when_met needs bounds to meet; set balance: constrained")
        if self.teacher != "live" and (looking := self.who_needs("states")):
            raise ValueError(f"loss '{looking}' looks into the teacher, which a cache does not hold; set teacher: live")
        refusals = [loss.refusal for loss in self.losses if loss.refusal is not None]
        if len(words := sorted({one.words for one in refusals})) > 1:
            raise ValueError(f"losses of kind decision refuse with {words}; give them the same refuse_with")
        if len(within := sorted({one.within for one in refusals})) > 1 or len({one.recover for one in refusals}) > 1:
            raise ValueError(
                f"losses of kind decision, or that look at refusals, have within {within}; give them the same, and the "
                "same recover"
            )
        ways = {loss.under.rewrites for loss in self.losses if loss.under is not None and loss.under.on == "text"}
        if len(ways) > 1:
            raise ValueError(f"losses under noise on text rewrite by {sorted(ways)}; give them the same noise.rewrites")
        if across := self.who_needs("spans"):
            if self.teacher == "live":
                raise ValueError(
                    f"loss '{across}' reads soft targets that were scored once, not a live teacher; set teacher: cached"
                )
            if self.reasoning == "then_answer":
                raise ValueError(f"loss '{across}' compares answers alone; set reasoning: answer_only")
            if same := self.who_needs("distribution"):
                raise ValueError(
                    f"loss '{same}' compares ids and '{across}' what they spell, and soft targets are scored for one "
                    f"of them; keep '{across}', which is forward_kl where both tokenizers are the same, or '{same}'"
                )
        if self.teacher == "live" and not self.asks_live:
            raise ValueError("no loss learns from a teacher; leave teacher: live out, or add one (forward_kl)")
        if self.reasoning == "answer_only" and self.reasoning_weight != 1:
            raise ValueError("reasoning_weight weighs reasoning that is learnt; set reasoning: then_answer")
        if self.reasoning == "then_answer" and not any(isinstance(loss, CrossEntropy) for loss in self.losses):
            raise ValueError(
                "reasoning: then_answer needs cross_entropy, for no distribution says where the tags stand; add it"
            )
        robust = ROBUSTNESS in self.balance.bounds
        if robust and not any(loss.under for loss in self.losses):
            raise ValueError("a bound on robustness pulls on noise_consistency; add that loss or leave the bound out")
        for loss in self.losses if self.gradient_checkpointing else ():
            if loss.under is not None and loss.under.on == "hidden":
                # A layer that is computed anew would be computed without it.
                raise ValueError(
                    f"'gradient_checkpointing' does not go with {loss.kind} under noise on hidden states; "
                    "turn it off, or use noise.on: embedding"
                )
        return self

    def who_needs(self, what: Needs) -> str | None:
        """The first loss that needs this, None where none does."""
        return next((loss.kind for loss in self.losses if what in loss.wants), None)
