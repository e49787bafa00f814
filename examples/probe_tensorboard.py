"""A probe's numbers in TensorBoard: digits in float16 autocast with a GradScaler. Needs the package tensorboard.

python examples/probe_tensorboard.py
tensorboard --logdir runs/probe
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from sklearn.datasets import load_digits

import lossscale

BATCH = 64


def main(argv: Sequence[str] | None = None) -> list[str]:
    """Train, write the events, and return the warnings."""
    parser = argparse.ArgumentParser(description="Digits under a probe that writes for TensorBoard.")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--logdir", type=Path, default=Path("runs/probe"))
    arguments = parser.parse_args(argv)
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError:
        parser.error("needs the package tensorboard: pip install tensorboard")
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = load_digits()
    images = torch.tensor(data.data / 16, dtype=torch.float32, device=device)
    labels = torch.tensor(data.target, device=device)
    model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler(device, growth_interval=100)

    probe = lossscale.Probe(optimizer, every=arguments.every, model=model, scaler=scaler)  # <- line 1 of 2

    with SummaryWriter(arguments.logdir) as writer:
        for step in range(1, arguments.steps + 1):
            batch = torch.randint(0, len(labels), (BATCH,), device=device)
            optimizer.zero_grad()
            with torch.autocast(device, dtype=torch.float16):
                loss = torch.nn.functional.cross_entropy(model(images[batch]), labels[batch])
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            for name, value in (probe.take() or {}).items():  # <- line 2 of 2
                writer.add_scalar(name, value, step)
    print(f"written to {arguments.logdir}; {len(probe.warnings)} warnings")
    return [str(warning) for warning in probe.warnings]


if __name__ == "__main__":
    main()
