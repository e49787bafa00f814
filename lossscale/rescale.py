"""``python -m lossscale rescale``: what to set when the loss was multiplied by s, from the algorithms' degrees."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .design.options import check_finite, find_algorithm, make_record, parse_options
from .design.scales import is_power_of_two, parse_scale
from .support.cli import JsonOption, OutOption
from .support.errors import InputError
from .support.files import whole_file
from .support.output import Output

if TYPE_CHECKING:
    from torch import Tensor

    from kernels import Algorithm

FROM = "--from"
_ADDED_LATER = ("maximize", "decoupled_weight_decay")
"""What a state_dict of an older torch may lack; its default is what that torch did."""

OptimizerArgument = Annotated[str, typer.Argument(metavar="OPTIMIZER", help="adam, sgd, …", show_default=False)]
ValuesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="NAME=VALUE", help="Hyperparameters that are not the defaults.")
]
ScaleOption = Annotated[str, typer.Option("--scale", metavar="S", help="What the loss was multiplied by: 8, 2^-12.")]
FromOption = Annotated[
    Path | None, typer.Option(FROM, metavar="FILE", help="Take them from a saved state_dict of a torch optimizer.")
]


def command(
    optimizer: OptimizerArgument,
    scale: ScaleOption,
    values: ValuesArgument = None,
    checkpoint: FromOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """What to set when the loss was multiplied by S.

    With the new hyperparameters a run on the multiplied loss repeats the run on the loss itself. With --from and --out
    the optimizer's state_dict is written again with new hyperparameters and states, to go on under the new loss.
    """
    algorithm = find_algorithm("OPTIMIZER", optimizer)
    factor = parse_scale(scale)
    if out is not None and checkpoint is None:
        raise InputError("--out", out, f"has nothing to write without a checkpoint; give {FROM} FILE too")
    if checkpoint is not None and values:
        raise InputError("NAME=VALUE", " ".join(values), f"the checkpoint says what is set; leave them or {FROM} out")
    document: dict[str, Any] = {}
    if checkpoint is None:
        parts = values or []
        options = parse_options(algorithm, parts, "NAME=VALUE", " ".join(parts))
        records = [make_record(algorithm, dict(options), "NAME=VALUE", " ".join(parts))]
    else:
        document = _load(checkpoint)
        records = [_group_record(algorithm, group, checkpoint) for group in document["param_groups"]]
    rescaled = [algorithm.rescale(record, factor) for record in records]
    for record in rescaled:
        check_finite(record, "--scale", scale)
    with Output(as_json) as output:
        rows = [
            {**({"group": place} if len(records) > 1 else {}), **row}
            for place, (now, then) in enumerate(zip(records, rescaled, strict=True))
            for row in _rows(algorithm, now, then)
        ]
        states = _states(algorithm, records, factor)
        lost = 0
        if out is not None:
            lost = _rescale_document(algorithm, document, rescaled, factor)
            _save(document, out)
        output.table(rows, scale=factor, states=states, exact=is_power_of_two(factor), written=out)
        for line in _sentences(rows, states, factor, scale):
            output.note(line)
        if lost:
            output.note(f"{lost} elements of the state became 0: too small for their dtype at this scale.")
        if out is not None:
            output.note(f"written to {out}")


def _rows(algorithm: Algorithm, now: Any, then: Any) -> list[dict[str, Any]]:
    return [
        {
            "hyperparameter": name,
            "now": _plain(getattr(now, name)),
            "set_to": _plain(getattr(then, name)),
            "degree": degree,
        }
        for name, degree in algorithm.degrees_of(now).items()
        if hasattr(now, name)
    ]


def _plain(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else float(value)


def _states(algorithm: Algorithm, records: list[Any], factor: float) -> list[dict[str, Any]]:
    kept = {name for record in records for name in algorithm.state_names(record)}
    return [
        {"state": state.name, "degree": state.degree, "multiply_by": factor**state.degree}
        for state in algorithm.states
        if state.name in kept
    ]


def _sentences(rows: list[dict[str, Any]], states: list[dict[str, Any]], factor: float, scale: str) -> list[str]:
    changed = list(dict.fromkeys(row["hyperparameter"] for row in rows if row["now"] != row["set_to"]))
    first = (
        f"With the loss multiplied by {scale}, set {' and '.join(changed)} as above and leave the rest: "
        if changed
        else f"With the loss multiplied by {scale}, nothing has to be set: "
    )
    exact = is_power_of_two(factor)
    lines = [first + f"the run repeats the one without it{', bit for bit' if exact else ''}."]
    moving = [f"{state['state']} by {state['multiply_by']:g}" for state in states if state["degree"]]
    if moving:
        lines.append(f"If the loss changes in mid-run, multiply the state too: {', '.join(moving)}.")
    if not exact:
        lines.append(f"{scale} is no power of two: products round, so this is exact only up to rounding.")
    return lines


def _load(path: Path) -> dict[str, Any]:
    """A torch optimizer's state_dict, read without running any code of the file."""
    import torch

    remedy = "holds no optimizer's state_dict; save one with torch.save(optimizer.state_dict(), FILE)"
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(FROM, path, f"cannot be read ({error.strerror or error}); give a file that can") from error
    except (RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise InputError(FROM, path, remedy) from error
    groups = document.get("param_groups") if isinstance(document, dict) else None
    whole = isinstance(groups, list) and groups and all(isinstance(group, dict) for group in groups)
    if not whole or not isinstance(document.get("state"), dict):
        raise InputError(FROM, path, remedy)
    found: dict[str, Any] = document
    return found


def _group_record(algorithm: Algorithm, group: dict[str, Any], path: Path) -> Any:
    """The hyperparameters of a parameter group."""
    names = algorithm.hyperparameter_names
    missing = [name for name in names if name not in group and name not in _ADDED_LATER]
    foreign = ["eps"] if "eps" in group and "eps" not in names else []
    if missing or foreign:
        what = f"no {', '.join(missing)}" if missing else "an eps"
        remedy = f"has {what} in its param_groups, so it is not {algorithm.title}'s; name the optimizer that saved it"
        raise InputError(FROM, path, remedy)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(algorithm.hyperparameters):
        if field.name not in group:
            continue
        value = group[field.name]
        try:
            if isinstance(field.default, tuple):
                values[field.name] = tuple(float(item) for item in value)
            else:
                values[field.name] = bool(value) if isinstance(field.default, bool) else float(value)
        except (TypeError, ValueError) as error:
            raise InputError(FROM, path, f"{field.name} is {value!r}; give a file that torch wrote") from error
    return make_record(algorithm, values, FROM, str(path))


def _rescale_document(algorithm: Algorithm, document: dict[str, Any], rescaled: list[Any], factor: float) -> int:
    """Changes the state_dict in place and returns how many state elements became 0."""
    import torch

    for group, record in zip(document["param_groups"], rescaled, strict=True):
        degrees = algorithm.degrees_of(record)
        for name in algorithm.hyperparameter_names:
            if name in group and degrees.get(name, 0):
                old, new = group[name], getattr(record, name)
                group[name] = torch.full_like(old, new) if isinstance(old, torch.Tensor) else new
        if "initial_lr" in group and degrees.get("lr", 0):  # where a scheduler begins
            group["initial_lr"] = group["initial_lr"] * factor ** degrees["lr"]
    lost = 0
    for entry in document["state"].values():
        for state in algorithm.states:
            value = entry.get(state.name) if isinstance(entry, dict) else None
            if isinstance(value, torch.Tensor) and state.degree:
                entry[state.name], zeros = _times(value, factor**state.degree, state.name)
                lost += zeros
    return lost


def _times(value: Tensor, by: float, name: str) -> tuple[Tensor, int]:
    product = (value.double() * by).to(value.dtype)
    if bool((value.isfinite() & ~product.isfinite()).any()):
        raise InputError("--scale", f"{by:g}", f"{name} overflows {value.dtype}; give a scale nearer to 1")
    return product, int(((value != 0) & (product == 0)).sum())


def _save(document: dict[str, Any], out: Path) -> None:
    import torch

    with whole_file(out) as temporary, temporary.open("wb") as file:
        torch.save(document, file)
