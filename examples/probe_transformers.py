"""A probe in transformers' Trainer: a small GPT-2, all of it in bfloat16, trained on Python's own help texts.

    pip install transformers accelerate
    python examples/probe_transformers.py
    python examples/probe_transformers.py --beta2 0.95 --dtype float32

Nothing is downloaded: the text is the module pydoc_data.topics, read as bytes, and the model is made anew.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Sequence
from pydoc_data import topics
from typing import Any

import torch
import transformers

import lossscale

WINDOW = 64
SHOWN = ("rho", "eps_over_r_q50", "v_unchanged", "update_lost")


class ProbeCallback(transformers.TrainerCallback):  # type: ignore[misc]
    """Attaches a probe when training begins, and prints what it saw."""

    def __init__(self, every: int) -> None:
        self._every = every

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The optimizer exists now, wrapped by accelerate."""
        self.probe = lossscale.Probe(kwargs["optimizer"], every=self._every, model=kwargs["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After every step of the optimizer."""
        if numbers := self.probe.take():
            seen = (f"{name} {numbers[f'group0/{name}']:.3g}" for name in SHOWN if f"group0/{name}" in numbers)
            print(f"step {state.global_step}: {', '.join(seen)}")


class Bytes(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Windows of the text."""

    def __init__(self) -> None:
        text = "\n".join(topics.topics.values()).encode()
        self._windows = torch.tensor(list(text))[: len(text) // WINDOW * WINDOW].view(-1, WINDOW)

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, place: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self._windows[place], "labels": self._windows[place]}


def main(argv: Sequence[str] | None = None) -> lossscale.Probe:
    """Train, and return the probe."""
    parser = argparse.ArgumentParser(description="A small GPT-2 under transformers' Trainer and a probe.")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--every", type=int, default=200)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--beta2", type=float, default=0.999)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    arguments = parser.parse_args(argv)
    logging.basicConfig(format="%(name)s: %(message)s")
    transformers.set_seed(0)
    tokens = {"vocab_size": 256, "bos_token_id": None, "eos_token_id": None}
    sizes = {"n_layer": 2, "n_embd": 64, "n_head": 2, "n_positions": WINDOW}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **tokens)).to(getattr(torch, arguments.dtype))
    watched = ProbeCallback(arguments.every)
    with tempfile.TemporaryDirectory() as folder:
        options = transformers.TrainingArguments(
            output_dir=folder,
            max_steps=arguments.steps,
            per_device_train_batch_size=8,
            learning_rate=arguments.lr,
            lr_scheduler_type="constant",
            weight_decay=0.1,
            adam_beta2=arguments.beta2,
            logging_steps=arguments.every,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        transformers.Trainer(model=model, args=options, train_dataset=Bytes(), callbacks=[watched]).train()
    return watched.probe


if __name__ == "__main__":
    main()
