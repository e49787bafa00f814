"""The command: reads what is set, has it rescaled, and prints or writes the result."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import typer

from ..checkpoints.files import KEY, TORCH_ENDINGS, Checkpoint, read_checkpoint, read_file, write_files
from ..checkpoints.groups import Group, read_group
from ..design.options import check_finite, find_algorithm, make_record
from ..design.scales import parse_scale
from ..support.cli import JsonOption, OutOption
from ..support.errors import InputError, check_ending
from ..support.output import Output
from .advice import Case, rate_rows, rows, sentences, state_rows, table_rows
from .groups import scale_file_rates, write_group
from .states import DEGREE, Lost, parse_degrees, rescale_states
from .values import CLIP, VALUES, parse_values

FROM = "--from"
SCHEDULER = "--scheduler"
SCHEDULER_OUT = "--scheduler-out"

OptimizerArgument = Annotated[str, typer.Argument(metavar="OPTIMIZER", help="adam, sgd, …", show_default=False)]
ValuesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar=VALUES, help="Hyperparameters that are not the defaults; max_grad_norm=1.0 if you clip."),
]
ScaleOption = Annotated[
    str, typer.Option("--scale", metavar="S", help="What the loss was multiplied by: 8, 2^-12, 1/16.")
]
FromOption = Annotated[
    Path | None,
    typer.Option(FROM, metavar="FILE", help="Take them from a saved state_dict, trained before the multiplication."),
]
KeyOption = Annotated[
    str | None, typer.Option(KEY, metavar="KEY", help="Where FILE has it: optimizer, optimizer_states.0, …")
]
DegreeOption = Annotated[
    list[str] | None, typer.Option(DEGREE, metavar="NAME=D", help="A state of FILE that is multiplied by S^D.")
]
SchedulerOption = Annotated[
    Path | None, typer.Option(SCHEDULER, metavar="FILE", help="A scheduler's saved state_dict, with rates of its own.")
]
SchedulerOutOption = Annotated[
    Path | None, typer.Option(SCHEDULER_OUT, metavar="PATH", help="Where to write the scheduler's again.")
]


def command(
    optimizer: OptimizerArgument,
    scale: ScaleOption,
    values: ValuesArgument = None,
    checkpoint: FromOption = None,
    key: KeyOption = None,
    degree: DegreeOption = None,
    scheduler: SchedulerOption = None,
    scheduler_out: SchedulerOutOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """What to set when the loss was multiplied by S.

    With the new hyperparameters a run on the multiplied loss repeats the run on the loss itself. With --from and --out
    the optimizer's state_dict is written again with new hyperparameters and states, to go on under the new loss; a
    factor that is gone again has the inverse scale, 1/16 after 16.
    """
    algorithm = find_algorithm("OPTIMIZER", optimizer)
    factor = parse_scale(scale)
    parts = values or []
    _check_together(parts, checkpoint, key, degree, scheduler, scheduler_out, out)
    typed = parse_values(algorithm, parts)
    given = parse_degrees(algorithm, degree or [])
    read: Checkpoint | None = None
    if checkpoint is None:
        record = make_record(algorithm, typed.options, VALUES, " ".join(parts))
        groups = [Group(record=record, absent=(), rates={}, unknown=())]
    else:
        read = read_checkpoint(checkpoint, key, FROM)
        groups = [read_group(algorithm, group, read) for group in read.state_dict["param_groups"]]
    then = [algorithm.rescale(group.record, factor) for group in groups]
    lr_by = [factor ** algorithm.degrees_of(group.record).get("lr", 0) for group in groups]
    for group, record, by in zip(groups, then, lr_by, strict=True):
        check_finite(record, "--scale", scale)
        check_finite(SimpleNamespace(**{name: rate * by for name, rate in group.rates.items()}), "--scale", scale)
    if typed.max_grad_norm is not None:
        check_finite(SimpleNamespace(max_grad_norm=typed.max_grad_norm * factor), "--scale", scale)
    lost = Lost()
    inside: list[dict[str, Any]] = []
    if read is not None:
        lost = rescale_states(algorithm, read, groups, given, factor)
        for group, record, by in zip(read.state_dict["param_groups"], then, lr_by, strict=True):
            write_group(algorithm, group, record, by)
        if lr_by[0] != 1 and not read.others:  # with several optimizers, whose schedulers they are is not known
            inside = scale_file_rates(read.document, lr_by[0], FROM, read.path)
    own: list[dict[str, Any]] = []
    document: Any = None
    if scheduler is not None:
        document = read_file(scheduler, SCHEDULER)
        own = scale_file_rates(document, lr_by[0], SCHEDULER, scheduler)
        if not own:
            remedy = (
                "holds no scheduler's state_dict (no base_lrs); save it with torch.save(scheduler.state_dict(), FILE)"
            )
            raise InputError(SCHEDULER, scheduler, remedy)
    case = Case(
        algorithm=algorithm,
        scale=scale,
        factor=factor,
        groups=groups,
        then=then,
        max_grad_norm=typed.max_grad_norm,
        checkpoint=read,
        rates=[*inside, *own],
        lost=lost,
    )
    found = rows(case)
    states = state_rows(case, given)
    with Output(as_json) as output:
        written = [(read.document, out, "--out")] if out is not None and read is not None else []
        written += [(document, scheduler_out, SCHEDULER_OUT)] if scheduler_out is not None else []
        write_files(written)
        shown = table_rows([*found, *rate_rows(case)])
        output.table(shown, scale=factor, states=states, exact=case.exact, written=out)
        for line in sentences(case, found, states):
            output.note(line)
        for _, path, _ in written:
            output.note(f"written to {path}")


def _check_together(
    parts: list[str],
    checkpoint: Path | None,
    key: str | None,
    degree: list[str] | None,
    scheduler: Path | None,
    scheduler_out: Path | None,
    out: Path | None,
) -> None:
    """Refuses options that need another one, or another one's absence, and names of files that torch does not write."""
    for name, written, source in (("--out", out, checkpoint), (SCHEDULER_OUT, scheduler_out, scheduler)):
        check_ending(name, written, *TORCH_ENDINGS, *([source.suffix.lower()] if source is not None else []))
    needy = {"--out": out, KEY: key, DEGREE: " ".join(degree or []) or None}
    for name, value in needy.items():
        if value is not None and checkpoint is None:
            raise InputError(name, value, f"has nothing to go with without a checkpoint; give {FROM} FILE too")
    if scheduler_out is not None and scheduler is None:
        raise InputError(SCHEDULER_OUT, scheduler_out, f"has nothing to write; give {SCHEDULER} FILE too")
    if out is not None and out == scheduler_out:
        raise InputError(SCHEDULER_OUT, scheduler_out, "is --out's place too; give another")
    if checkpoint is not None and any(part.partition("=")[0] != CLIP for part in parts):
        remedy = f"the checkpoint says what is set; leave them (but for {CLIP}) or {FROM} out"
        raise InputError(VALUES, " ".join(parts), remedy)
