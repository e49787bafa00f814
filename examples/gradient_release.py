"""Gradient release: step every parameter as soon as its gradient is there, and free the gradient at once.

    python examples/gradient_release.py

One optimizer per parameter steps in a hook that autograd calls after accumulating the gradient. No more than one
gradient is alive at a time, where an ordinary training loop holds all of them; the parameters come out the same, bit
for bit. What a global view of the gradients needs (clipping by global norm, GradScaler's check for infinities) is not
possible this way.
"""

from __future__ import annotations

import torch

import kernels


def make_model(layers: int = 8, width: int = 64) -> torch.nn.Sequential:
    """A deep network, the same every time."""
    torch.manual_seed(0)
    blocks = [torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.Tanh()) for _ in range(layers)]
    return torch.nn.Sequential(*blocks)


def batches(count: int, width: int = 64) -> list[torch.Tensor]:
    """The same inputs every time."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(32, width, generator=generator) for _ in range(count)]


def train_as_usual(steps: int) -> torch.nn.Module:
    """All gradients first, then one step."""
    model = make_model()
    optimizer = kernels.AdamW(model.parameters(), lr=1e-3)
    for x in batches(steps):
        optimizer.zero_grad()
        (model(x) - x).square().mean().backward()
        optimizer.step()
    return model


def train_with_release(steps: int) -> tuple[torch.nn.Module, int]:
    """Each parameter steps in its hook; also returns the largest number of gradients alive at once."""
    model = make_model()
    parameters = list(model.parameters())
    optimizers = {p: kernels.AdamW([p], lr=1e-3) for p in parameters}
    most = 0

    def release(p: torch.Tensor) -> None:
        nonlocal most
        most = max(most, sum(q.grad is not None for q in parameters))
        optimizers[p].step()
        optimizers[p].zero_grad()

    for p in parameters:
        p.register_post_accumulate_grad_hook(release)
    for x in batches(steps):
        (model(x) - x).square().mean().backward()
    return model, most


def main(steps: int = 20) -> tuple[bool, int]:
    """Train both ways, and print and return whether all bits agree and how many gradients lived at once."""
    usual, (released, most) = train_as_usual(steps), train_with_release(steps)
    pairs = zip(usual.parameters(), released.parameters(), strict=True)
    same = all(kernels.bits.mismatches(a.detach(), b.detach()) == 0 for a, b in pairs)
    print(f"{len(list(usual.parameters()))} parameters, at most {most} gradient alive with release; same bits: {same}")
    return same, most


if __name__ == "__main__":
    main()
