"""TRL: its chunked divergence (what DistillationTrainer calls) and its GKDTrainer (which takes whole logits)."""

from __future__ import annotations

from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl.experimental.gkd import GKDConfig, GKDTrainer
from trl.kernels import chunked_divergence

import work

if TYPE_CHECKING:
    from worker import Meter


def head(setting: work.Setting) -> work.Call:
    """The mean of the chunked divergence; `chunk` is rows x columns of a tile."""
    inputs = work.head(setting)
    rows, columns = setting["chunk"].split("x")
    chunked_divergence.TOKEN_CHUNK_SIZE, chunked_divergence.VOCAB_CHUNK_SIZE = int(rows), int(columns)

    def call() -> work.Answer:
        divergence_N, _ = chunked_divergence.ChunkedDivergenceFunction.apply(
            inputs.student_NH,
            inputs.student_VH,
            None,
            inputs.teacher_NH,
            inputs.teacher_VH,
            None,
            float(setting["beta"]),
        )
        return inputs.gradients(divergence_N.mean())

    return call


class _Laps(TrainerCallback):
    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.meter.lap() if state.global_step > 1 else self.meter.start()


def step(setting: work.Setting, batches: list[list[work.ChatRow]], meter: Meter) -> None:
    """GKD off-policy, without gradient checkpointing, which would make it slower; its own collator and padding."""
    chats = [
        [{"role": "user", "content": row.prompt}, {"role": "assistant", "content": row.reply}]
        for rows in batches
        for row in rows
    ]
    tokenizer = AutoTokenizer.from_pretrained(work.FILES / "smollm2")
    student, teacher = (
        AutoModelForCausalLM.from_pretrained(work.FILES / "smollm2", dtype=torch.float32) for _ in range(2)
    )
    with TemporaryDirectory() as folder:
        args = GKDConfig(
            output_dir=folder,
            lmbda=0.0,
            beta=float(setting["beta"]),
            temperature=1.0,
            per_device_train_batch_size=int(setting["batch"]),
            max_steps=len(batches),
            train_sampling_strategy="sequential",
            learning_rate=2e-4,
            gradient_checkpointing=False,
            bf16=setting["dtype"] == "bfloat16",
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            dataloader_pin_memory=False,
        )
        GKDTrainer(
            model=student,
            teacher_model=teacher,
            args=args,
            train_dataset=Dataset.from_dict({"messages": chats}),
            processing_class=tokenizer,
            peft_config=LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear"),
            callbacks=[_Laps(meter)],
        ).train()
