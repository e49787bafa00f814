"""transformers' Trainer with a Llama: accumulation, clipping, warm-up; checkpoints cross both ways."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from training import check_both_ways, class_and_options

STEPS = 6


@pytest.mark.parametrize(("name", "bf16"), [("SGD", False), ("AdamW", False), ("AdamW", True)])
def test_trainer(client: Any, tmp_path: Path, name: str, bf16: bool) -> None:
    used = f"Trainer of a Llama, {'bf16' if bf16 else 'float32'}, clipping, accumulation 2, warm-up, checkpoint"
    client("transformers", used, name)
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

    tokens = torch.randint(0, 128, (32, 16), generator=torch.Generator().manual_seed(2))
    data = [{"input_ids": row, "labels": row} for row in tokens]

    class StopAt(TrainerCallback):
        def __init__(self, step: int) -> None:
            self.step = step

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.global_step >= self.step

    def run(whose: str, first: int, last: int) -> list[torch.Tensor]:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=128,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=32,
        )
        folder = tmp_path / f"to{last}"
        shutil.rmtree(folder, ignore_errors=True)
        arguments = TrainingArguments(
            output_dir=str(folder),
            max_steps=STEPS,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            max_grad_norm=0.5,
            warmup_steps=2,
            lr_scheduler_type="cosine",
            bf16=bf16,
            use_cpu=True,
            save_strategy="steps",
            save_steps=STEPS // 2,
            report_to="none",
            disable_tqdm=True,
            seed=3,
        )
        trainer = Trainer(
            model=LlamaForCausalLM(config),
            args=arguments,
            train_dataset=data,
            optimizer_cls_and_kwargs=class_and_options(whose, name),
            callbacks=[StopAt(last)],
        )
        found = tmp_path / f"to{first}" / f"checkpoint-{first}"
        trainer.train(resume_from_checkpoint=str(found) if first else None)
        assert trainer.state.global_step == last
        return list(trainer.model.parameters())

    check_both_ways(run, STEPS // 2, STEPS)
