"""`python -m bench time host`."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from lossscale.support import cli, errors, files
from lossscale.support.output import Output

COLUMNS = (
    "optimizer",
    "recipe",
    "tensors",
    "gradients",
    "host_us",
    "q10_us",
    "q90_us",
    "cpu_us",
    "launches",
    "scalars",
    "copies",
    "bytes_copied",
    "torch_cpu_fused_us",
)


def time_host_command(
    optimizer: Annotated[
        list[str] | None, typer.Option("--optimizer", metavar="NAME", help="Only this one: adam, SGD (repeat).")
    ] = None,
    trainer: Annotated[bool, typer.Option("--trainer", help="Runs of kernels.Trainer instead of steps.")] = False,
    lines: Annotated[bool, typer.Option("--lines", help="Also where one small step spends it.")] = False,
    quick: cli.QuickOption = False,
    json: cli.JsonOption = False,
    out: cli.OutOption = None,
) -> int:
    """What a step costs the host on a GPU, measured without one: a stand-in takes the launches and counts them.

    Host is time on the wall, cpu the thread's own, which other work on the machine disturbs less. Beside them torch's
    whole fused step on this CPU. That computes as well, so no ratio is printed.

    With --trainer, runs of 512 models for 200 steps, Adam: a trainer's first, the same steps again after `restart`, and
    a run that goes on. before_us is from the call to the train kernel's launch; torch_calls are torch's operations that
    compute or allocate, waits those whose result the host waits for (both in the JSON also before the launch).

    Args:
        optimizer: by default AdamW and SGD.
        trainer: of the trainer.
        lines: a profile.
        quick: without the 10,000 tensors.
        json: print one JSON document.
        out: also write it there.
    """
    files.check_file("--out", out, ".json")
    from ..optimizers import parse_optimizers

    if trainer and optimizer:
        raise errors.InputError("--optimizer", ", ".join(optimizer), "--trainer times Adam's runs; leave it out")
    if trainer:
        return _time_trainer(lines=lines, quick=quick, json=json, out=out)
    titles = parse_optimizers(optimizer) if optimizer else ["AdamW", "SGD"]
    with Output(as_json=json) as output:
        rows = [
            row
            for title in titles
            for count in ((1, 150) if quick else (1, 150, 10_000))
            for row in _rows(title, count)
        ]
        document: dict[str, Any] = {"rows": rows}
        if lines:
            document["lines"] = _lines(titles[0])
        if out is not None:
            files.write_json(out, document)
        output.table(rows, COLUMNS, **{name: value for name, value in document.items() if name != "rows"})
        if lines and not json:
            output.note(_shown(document["lines"], "step"))
    return 0


def _time_trainer(*, lines: bool, quick: bool, json: bool, out: Any) -> int:
    from . import trainer_cost

    rounds = 20 if quick else 200
    with Output(as_json=json) as output:
        document: dict[str, Any] = {"rows": list(trainer_cost.cost_rows(rounds))}
        if lines:
            document["lines"] = trainer_cost.cost_lines(rounds)
        if out is not None:
            files.write_json(out, document)
        rows = document["rows"]
        output.table(rows, trainer_cost.COLUMNS, **{n: value for n, value in document.items() if n != "rows"})
        if lines and not json:
            output.note(_shown(document["lines"], "run"))
    return 0


def _shown(lines: list[dict[str, Any]], per: str) -> str:
    return "\n".join(f"{line['us_per_step']:6.2f} µs a {per}  {line['function']}" for line in lines)


def _parameters(count: int) -> list[Any]:
    import torch

    parameters = [torch.nn.Parameter(torch.randn(64)) for _ in range(count)]
    for parameter in parameters:
        parameter.grad = torch.randn(64)
    return parameters


def _rows(title: str, count: int) -> list[dict[str, Any]]:
    """Default and fused recipe, with gradients that stay and with new ones at every step."""
    import kernels

    from ..optimizers import registered
    from . import host_cost
    from .rows import quantiles

    rounds = max(7, 2000 // count)
    rows = []
    for recipe in (None, "fused"):
        if recipe is not None and recipe not in registered(title).recipes:
            continue
        for moved in (False, True):
            with host_cost.without_launches() as sent:
                parameters = _parameters(count)
                ours = getattr(kernels, registered(title).title)(parameters, lr=1e-3, recipe=recipe)
                host_cost.step_ns(ours, parameters, moved=moved, rounds=2)
                before = (sent.launches, sent.scalars, sent.copies, sent.bytes_copied)
                samples = host_cost.step_ns(ours, parameters, moved=moved, rounds=rounds, warm_up=0)
                after = (sent.launches, sent.scalars, sent.copies, sent.bytes_copied)
                of_thread = host_cost.step_ns(
                    ours, parameters, moved=moved, rounds=rounds, warm_up=0, clock=time.thread_time_ns
                )
            spread, of_thread_spread = quantiles(samples) or {}, quantiles(of_thread) or {}
            launches, scalars, copies, copied = ((b - a) / rounds for a, b in zip(before, after, strict=True))
            rows.append(
                {
                    "optimizer": title,
                    "recipe": ours.recipe.name,
                    "tensors": count,
                    "gradients": "new" if moved else "stay",
                    "host_us": spread["median"] / 1e3,
                    "q10_us": spread["q10"] / 1e3,
                    "q90_us": spread["q90"] / 1e3,
                    "cpu_us": of_thread_spread["median"] / 1e3,
                    "launches": launches,
                    "scalars": scalars,
                    "copies": copies,
                    "bytes_copied": copied,
                    "torch_cpu_fused_us": _torch_us(title, count, moved, rounds),
                    "samples_ns": samples,
                }
            )
    return rows


def _torch_us(title: str, count: int, moved: bool, rounds: int) -> float | None:
    """Torch's own fused step on this CPU, arithmetic and all; None where there is none."""
    import torch

    from . import host_cost
    from .rows import quantiles

    parameters = _parameters(count)
    try:
        optimizer = getattr(torch.optim, title)(parameters, lr=1e-3, fused=True)
        spread = quantiles(host_cost.step_ns(optimizer, parameters, moved=moved, rounds=min(rounds, 200)))
    except (AttributeError, TypeError, RuntimeError):
        return None
    return spread["median"] / 1e3 if spread else None


def _lines(title: str) -> list[dict[str, Any]]:
    import kernels

    from ..optimizers import registered
    from . import host_cost

    with host_cost.without_launches():
        parameters = _parameters(1)
        optimizer = getattr(kernels, registered(title).title)(parameters, lr=1e-3)
        for _ in range(5):
            optimizer.step()
        return host_cost.lines(optimizer.step, 2000)
