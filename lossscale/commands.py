"""The commands of ``python -m lossscale``, but for ``rescale``. Whatever imports torch is imported inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import studies
from .design.study import Study
from .support.cli import DeviceOption, JsonOption, OutOption, QuickOption
from .support.errors import check_directory_name, choose
from .support.output import Output
from .support.usage import Stopwatch

ALL = "all"

StudyArgument = Annotated[str, typer.Argument(metavar="STUDY", help="A study's name, or 'all'.", show_default=False)]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a run.", show_default=False)]
PolicyOption = Annotated[
    list[str] | None,
    typer.Option("--policy", metavar="NAME", help="Precision policy, such as bf16-true; repeat for several."),
]
NetworkOption = Annotated[
    list[str] | None,
    typer.Option("--network", metavar="NAME", help="Network of the study, by default all; repeat for several."),
]
OptimizerOption = Annotated[
    list[str] | None,
    typer.Option(
        "--optimizer", metavar="NAME", help="adam, or adam:eps=1e-3 for one set of options; repeat for several."
    ),
]
ScaleOption = Annotated[
    list[str] | None, typer.Option("--scale", metavar="S", help="Scale s: 0.01, 1e4, 2^-12; repeat for several.")
]
InitsOption = Annotated[
    int | None, typer.Option("--inits", metavar="N", help="Random initialisations per cell.", show_default=False)
]
StepsOption = Annotated[
    int | None, typer.Option("--steps", metavar="N", help="Optimizer steps of every model.", show_default=False)
]
SeedOption = Annotated[int, typer.Option("--seed", metavar="N", help="Random seed.")]
BackendOption = Annotated[
    str, typer.Option("--backend", metavar="auto|triton|simd|interpreter|reference", help="What steps the optimizer.")
]
EngineOption = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="auto|trainer|batched|module",
        help="What trains the models: trainer has mlp-6-6-1 in every policy, batched has networks written by hand in "
        "fp32, module has every network in every policy; auto is the first of them that can.",
    ),
]
PredictionsOption = Annotated[
    bool, typer.Option("--predictions", help="Every prediction with its id, its study and its sentence.")
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Go on with a run that was killed, and redo damaged shards.")
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="i/N",
        help="Run only every N-th cohort, from the i-th on, beside other processes in one --out.",
        show_default=False,
    ),
]
ExecutorOption = Annotated[
    str,
    typer.Option(
        "--executor",
        metavar="auto|here|processes|ray",
        help="What trains the cohorts: this process, processes of this machine, or the nodes of a Ray cluster.",
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        help="The Ray cluster's head; by default RAY_ADDRESS, or a cluster of this machine alone.",
        show_default=False,
    ),
]
ShardsByOption = Annotated[
    str,
    typer.Option(
        "--shards-by",
        metavar="workers|driver",
        help="Who writes shards under --executor ray: the workers, or this process where nodes do not share --out.",
    ),
]
StrictOption = Annotated[bool, typer.Option("--strict", help="Exit 1 if a prediction fails.")]
PairOption = Annotated[
    str | None,
    typer.Option(
        "--pair", metavar="ID", help="NETWORK/OPTIMIZER[:OPTIONS]/POLICY/ARM:AGAINST/SCALE/INIT.", show_default=False
    ),
]


def list_studies(predictions: PredictionsOption = False, as_json: JsonOption = False) -> None:
    """The studies, what each shows and what it costs; or every prediction by its id."""
    with Output(as_json) as output:
        if predictions:
            output.table(
                [
                    {"prediction": name, "study": study.name, "says": says}
                    for study in studies.every()
                    for name, says in study.statements.items()
                ]
            )
            return
        rows = [
            {"study": study.name, "title": study.title, "shows": study.shows, "cost": study.cost}
            for study in studies.every()
        ]
        if not as_json:
            for row in rows:
                output.note(f"{row['study']}: {row['title']}\n  shows {row['shows']}\n  cost  {row['cost']}")
            return
        output.table(rows)


def run(
    study: StudyArgument,
    policy: PolicyOption = None,
    network: NetworkOption = None,
    optimizer: OptimizerOption = None,
    scale: ScaleOption = None,
    inits: InitsOption = None,
    steps: StepsOption = None,
    seed: SeedOption = 0,
    backend: BackendOption = "auto",
    engine: EngineOption = "auto",
    device: DeviceOption = "auto",
    resume: ResumeOption = False,
    shard: ShardOption = None,
    executor: ExecutorOption = "auto",
    address: AddressOption = None,
    shards_by: ShardsByOption = "workers",
    strict: StrictOption = False,
    out: OutOption = None,
    quick: QuickOption = False,
    as_json: JsonOption = False,
) -> int:
    """Run a study, or every study, and print its table.

    A finished run that is asked for again prints its table again. Without --out a run goes to runs/STUDY, or to
    runs/STUDY-quick with --quick; --out names the run's directory, and with 'all' the directory of the runs'
    directories.

    The studies with a grid, loss-vs-lr, exactness and real-gradients, take --policy, --network, --optimizer, --scale,
    --inits, --engine, --shard and --executor. The others are scripts and refuse them.

    N processes, on as many machines as share --out, each do one --shard i/N of a run. When they have ended, the same
    command with --resume in place of --shard checks their shards, does what is missing and finishes the run.
    """
    watch = Stopwatch()
    check_directory_name("--out", out)
    chosen = _studies(study)
    from .runs.executor import open_executor
    from .runs.planning import Choices
    from .runs.run import default_directory, is_large, run_share, run_study
    from .runs.share import Share
    from .runs.state import run_state

    choices = Choices(
        policies=tuple(policy or ()),
        networks=tuple(network or ()),
        optimizers=tuple(optimizer or ()),
        scales=tuple(scale or ()),
        inits=inits,
        steps=steps,
        seed=seed,
        device=device,
        backend=backend,
        engine=engine,
        quick=quick,
        resume=resume,
        share=Share.chosen(shard, resume=resume, strict=strict),
        executor=executor,
        address=address,
        shards_by=shards_by,
    )
    with Output(as_json) as output, open_executor(choices, output.note) as ready:
        asked = [
            (
                item,
                choices.for_script() if study == ALL and item.grid is None else choices,
                out / item.name if out and study == ALL else out or default_directory(item, choices),
            )
            for item in chosen
        ]
        for item, own, directory in asked[1:]:
            # Before hours of work, not after.
            run_state(directory, ready.plan(item, own), resume=resume or own.share is not None)
        if choices.share is not None:
            scripts = [item.name for item, own, _ in asked if own.share is None]
            if scripts:
                output.note(f"scripts have no shards and wait for --resume: {', '.join(scripts)}")
            shares = [(item, own, directory) for item, own, directory in asked if own.share is not None]
            rows = [run_share(item, own, directory, output, executor=ready) for item, own, directory in shares]
            output.table(rows, runs=[str(directory) for _, _, directory in shares])
            return 0
        for item, own, directory in asked:
            run_study(item, own, directory, output, executor=ready, page=_page)
        code = _present([(item, directory) for item, _, directory in asked], output, strict=strict)
        if any(is_large(directory) for _, _, directory in asked):
            output.note(watch.line())
        return code


def show(run: RunArgument, pair: PairOption = None, as_json: JsonOption = False) -> None:
    """One pair's trajectory, a row per checkpoint; without --pair the pairs that there are."""
    from .runs import trajectories

    with Output(as_json) as output:
        if pair is None:
            found, example = trajectories.pairs_of(run), trajectories.example_of(run)
            if not as_json:
                found = [{**row, "scales": _few(row["scales"]), "inits": f"0 to {row['inits'] - 1}"} for row in found]
            output.table(found, example=example)
            output.note(f"An ID is one of these with a scale and an initialisation: --pair {example}")
            return
        rows = trajectories.trajectory(run, pair)
        columns = trajectories.shown_columns(rows)
        output.table(rows, columns, title=pair, pair=pair)
        output.note(trajectories.legend(columns))


def _few(texts: list[str]) -> str:
    """The texts, with an ellipsis in the middle of many."""
    shown = texts if len(texts) < 6 else [*texts[:2], "…", *texts[-2:]]
    return ", ".join(shown) + f" ({len(texts)})" * (len(texts) > 1)


def _studies(name: str) -> tuple[Study, ...]:
    if name == ALL:
        return studies.every()
    return (studies.get(choose("STUDY", name, (*studies.names(), ALL))),)


def _page(run: Path, output: Output) -> None:
    """Writes the page of one run, or says how to get it."""
    from .report.libraries import LibraryMissing
    from .report.page import write_report
    from .runs.run import REPORT

    try:
        write_report([run], run / REPORT, find_study=studies.get)
    except LibraryMissing as missing:
        output.note(str(missing))


def _present(runs: list[tuple[Study, Path]], output: Output, *, strict: bool) -> int:
    """Prints the studies' tables and returns the exit code."""
    from .report.neutral import presentation_of
    from .runs.summary import failed_predictions

    rows: list[dict[str, Any]] = []
    for study, run in runs:
        presentation = presentation_of(study)
        table = list(presentation.table(run))
        rows += [{"study": study.name, **row} for row in table]
        if not output.as_json:
            output.table(table, title=f"\n{study.name}: {study.title}")
        for line in (*presentation.sentences(run), *presentation.legend(run)):
            output.note(line)
        output.note(f"written to {run}")
    failed = list(dict.fromkeys(name for _, run in runs for name in failed_predictions(run)))
    if failed:
        one = len(failed) == 1
        said = f"{len(failed)} prediction{'' if one else 's'} fail{'s' if one else ''}: {', '.join(failed)}"
        output.note(f"{said} (the lines are in summary.csv, what stands in their place in docs/science.md)")
    if output.as_json:
        output.table(rows, runs=[str(run) for _, run in runs], failed_predictions=len(failed))
    return 1 if strict and failed else 0
