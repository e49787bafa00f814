"""Train a small network on scikit-learn's digits, once with torch.optim.AdamW and once with kernels.AdamW.

    python examples/digits.py                        # both, the same loss
    python examples/digits.py --schedule             # with OneCycleLR, which changes lr and betas at every step
    python examples/digits.py --amp                  # float16 autocast and GradScaler
    python examples/digits.py --resume               # ours goes on from a checkpoint that torch's wrote half way

Two lines of a script change: the import, and the optimizer's constructor.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits

import kernels  # <- line 1 of 2

BATCH = 64


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Images [1797, 64] in 0..1 and their classes."""
    data = load_digits()
    return torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)


def train(
    optimizer_class: Any,
    *,
    epochs: int,
    amp: bool = False,
    schedule: bool = False,
    save: Path | None = None,
    resume: Path | None = None,
) -> float:
    """Train for some epochs, and return the loss over all images at the end.

    Args:
        optimizer_class: torch.optim.AdamW or kernels.AdamW.
        epochs: passes over the images, in the same order for everyone.
        amp: float16 autocast with a GradScaler.
        schedule: OneCycleLR over all epochs.
        save: where to write a checkpoint at the end.
        resume: a checkpoint to go on from.
    """
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images, labels = (t.to(device) for t in digits())
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)).to(device)

    optimizer = optimizer_class(model.parameters(), lr=3e-3)  # <- line 2 of 2: kernels.AdamW for torch.optim.AdamW

    steps = epochs * (len(images) // BATCH)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps) if schedule else None
    scaler = torch.amp.GradScaler(device, enabled=amp, init_scale=1024.0)
    if resume is not None:
        checkpoint = torch.load(resume)
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
    for epoch in range(epochs):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(epoch)).to(device)
        for batch in order[: steps // epochs * BATCH].view(-1, BATCH):
            optimizer.zero_grad()
            with torch.autocast(device, dtype=torch.float16, enabled=amp):
                loss = torch.nn.functional.cross_entropy(model(images[batch]), labels[batch])
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            if scheduler is not None:
                scheduler.step()
    if save is not None:
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, save)
    with torch.no_grad():
        return float(torch.nn.functional.cross_entropy(model(images), labels))


def main(argv: Sequence[str] | None = None) -> tuple[float, float]:
    """Train with both optimizers, print and return their losses."""
    parser = argparse.ArgumentParser(description="torch.optim.AdamW and kernels.AdamW on the same digits.")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--amp", action="store_true", help="float16 autocast and GradScaler")
    parser.add_argument("--schedule", action="store_true", help="OneCycleLR")
    parser.add_argument("--resume", action="store_true", help="go on from a checkpoint of torch.optim.AdamW")
    arguments = parser.parse_args(argv)
    options = {"epochs": arguments.epochs, "amp": arguments.amp, "schedule": arguments.schedule}
    with tempfile.TemporaryDirectory() as folder:
        resume = Path(folder) / "checkpoint.pt" if arguments.resume else None
        if resume is not None:
            train(torch.optim.AdamW, **options, save=resume)
        theirs = train(torch.optim.AdamW, **options, resume=resume)
        ours = train(kernels.AdamW, **options, resume=resume)
    print(f"torch.optim.AdamW  loss {theirs:.6f}")
    print(f"kernels.AdamW      loss {ours:.6f}")
    return theirs, ours


if __name__ == "__main__":
    main()
