"""A probe's numbers in a CSV file: digits, trained in bfloat16 with a second moment that remembers 1000 steps.

    python examples/probe_csv.py
    python examples/probe_csv.py --dtype float32 --out probe.csv --save checkpoint.pt

The file has a line for every number: step, name, value.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import torch
from sklearn.datasets import load_digits

import lossscale

BATCH = 64


def main(argv: Sequence[str] | None = None) -> list[str]:
    """Train, write the file, and return the warnings."""
    parser = argparse.ArgumentParser(description="Digits under a probe that writes a CSV file.")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--out", type=Path, default=Path("probe.csv"))
    parser.add_argument("--save", type=Path, help="a checkpoint to write at the end, for lossscale inspect")
    arguments = parser.parse_args(argv)
    torch.manual_seed(0)
    dtype = getattr(torch, arguments.dtype)
    data = load_digits()
    images, labels = torch.tensor(data.data / 16, dtype=dtype), torch.tensor(data.target)
    model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10)).to(dtype)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    probe = lossscale.Probe(optimizer, every=arguments.every, model=model)  # <- line 1 of 2

    with arguments.out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("step", "name", "value"))
        for step in range(1, arguments.steps + 1):
            batch = torch.randint(0, len(labels), (BATCH,))
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
            if numbers := probe.take():  # <- line 2 of 2
                writer.writerows((step, name, value) for name, value in numbers.items())
    if arguments.save:
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, arguments.save)
    print(f"written to {arguments.out}; {len(probe.warnings)} warnings")
    return [str(warning) for warning in probe.warnings]


if __name__ == "__main__":
    main()
