"""From what the user typed to the manifest of a run: every choice is checked here, before anything is written."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ..design.grid import Grid, NetworkInits, OptimizerSpec
from ..design.options import check_finite, find_algorithm, make_record, parse_options
from ..design.policies import POLICIES, get_policy
from ..design.scales import parse_scale
from ..design.spec import AUTO, RunSpec
from ..design.study import Study
from ..support.errors import InputError, check_choice, check_count, choose, input_errors
from .executor import EXECUTORS
from .records import Manifest
from .share import Share
from .sources import SOURCES, digest
from .writers import Origin

_MOST_COHORTS = 64
_MOST_MODELS = 16_384
"""Of a cell where bits do not depend on the cohort's size, and of such a cohort: a cohort has costs of its own."""

LARGEST_INITS = 1_000_000
"""Per cell. The cohorts of a run are listed in memory."""
LARGEST_STEPS = 1 << 24
"""Step counters are float32, and count no farther."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The options of ``run``; empty or None where the study decides."""

    policies: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    optimizers: tuple[str, ...] = ()
    scales: tuple[str, ...] = ()
    inits: int | None = None
    steps: int | None = None
    seed: int = 0
    device: str = "auto"
    backend: str = "auto"
    engine: str = AUTO
    quick: bool = False
    resume: bool = False
    workers: int | None = None
    share: Share | None = None
    executor: str = "auto"
    address: str | None = None
    shards_by: str = "workers"

    def grid_only(self) -> dict[str, object]:
        """The choices given that only a grid has, by option."""
        named = {
            "--policy": self.policies,
            "--network": self.networks,
            "--optimizer": self.optimizers,
            "--scale": self.scales,
            "--inits": self.inits,
            "--engine": None if self.engine == AUTO else self.engine,
            "--shard": self.share,
            "--executor": None if self.executor == EXECUTORS[0] else self.executor,
        }
        return {name: value for name, value in named.items() if value not in ((), None)}

    def for_script(self) -> Choices:
        """The choices without those that only a grid has: what ``all`` gives to a study with a script."""
        return dataclasses.replace(
            self, policies=(), networks=(), optimizers=(), scales=(), inits=None, engine=AUTO, share=None
        )


def planned_manifest(study: Study, choices: Choices) -> Manifest:
    """The manifest of the run that was asked for, not finished.

    Raises:
        InputError: for every choice that cannot be had; nothing has been written then.
    """
    if choices.steps is not None:
        check_count("--steps", choices.steps)
        if choices.steps > LARGEST_STEPS:
            remedy = f"is more than float32 step counters count; give at most {LARGEST_STEPS:,}"
            raise InputError("--steps", choices.steps, remedy)
    if choices.inits is not None:
        check_count("--inits", choices.inits)
        if choices.inits > LARGEST_INITS:
            remedy = f"is more than a run holds; give at most {LARGEST_INITS:,}, or several runs of another --seed"
            raise InputError("--inits", choices.inits, remedy)
    if not 0 <= choices.seed < 2**63:
        raise InputError("--seed", choices.seed, "must lie between 0 and 2^63 - 1")
    scales = tuple(dict.fromkeys(parse_scale(text) for text in choices.scales))
    policies = tuple(dict.fromkeys(choose("--policy", name, POLICIES) for name in choices.policies))
    optimizers = _optimizers(study.grid, choices.optimizers)
    device, backend = _resolve(choices)
    spec: RunSpec | None = None
    options: dict[str, Any] = {}
    if study.grid is None:
        for name, value in choices.grid_only().items():
            shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
            raise InputError(name, shown, f"the study {study.name} is a script and has no such choice; leave it out")
        options = {"steps": choices.steps, "quick": choices.quick, "device": device, "backend": backend}
    else:
        smaller = _smaller(study.grid, choices)
        _check_networks(optimizers, smaller)
        grid = dataclasses.replace(
            smaller,
            scales=tuple(sorted(scales)) or study.grid.scales,
            policies=policies or study.grid.policies,
            optimizers=tuple(_with_recipe(item, study.grid) for item in optimizers or smaller.optimizers),
        )
        whole = RunSpec.of(study.name, grid, seed=choices.seed, device=device, backend=backend, engine=choices.engine)
        whole = _larger_cohorts(whole)
        _check(whole)
        spec = _settled(whole)
    return _manifest(study, choices.seed, device, spec, options)


def parse_optimizer(text: str) -> OptimizerSpec:
    """``adam`` or ``adam:eps=1e-3,weight_decay=0.1``, its names and values checked by the algorithm.

    Raises:
        InputError: for an unknown algorithm or hyperparameter, or a value that the algorithm refuses.
    """
    name, colon, rest = text.partition(":")
    algorithm = find_algorithm("--optimizer", name)
    parts = rest.split(",") if colon else ()
    return OptimizerSpec(algorithm=algorithm.name, options=parse_options(algorithm, parts, "--optimizer", text))


def _optimizers(grid: Grid | None, texts: tuple[str, ...]) -> tuple[OptimizerSpec, ...]:
    """What was asked for: a bare name means all options that the study has for it, or the defaults."""
    chosen: list[OptimizerSpec] = []
    for text in texts:
        asked = parse_optimizer(text)
        known = [item for item in grid.optimizers if item.algorithm == asked.algorithm] if grid else []
        chosen += known if known and ":" not in text else [asked]
    return tuple(dict.fromkeys(chosen))


def _check_networks(optimizers: tuple[OptimizerSpec, ...], grid: Grid) -> None:
    for item in optimizers:
        if not any(item.trains(network.network) for network in grid.networks):
            only = ", ".join(item.networks)
            raise InputError("--optimizer", item.typed, f"trains {only} only in this study; leave --network out")


def _with_recipe(optimizer: OptimizerSpec, grid: Grid) -> OptimizerSpec:
    """The optimizer with a recipe of its own where it lacks the grid's."""
    from kernels import ALGORITHMS, get_algorithm

    algorithm = get_algorithm(optimizer.algorithm)
    known = dict.fromkeys(name for each in ALGORITHMS.values() for name in each.recipes)
    check_choice("grid: recipe", grid.recipe, known)
    recipe = "" if grid.recipe in algorithm.recipes else algorithm.default_recipe
    return dataclasses.replace(optimizer, recipe=recipe)


def _smaller(grid: Grid, choices: Choices) -> Grid:
    """The grid with the number of inits and steps that was asked for."""
    networks = tuple(
        dataclasses.replace(network, inits=choices.inits or (network.quick_inits if choices.quick else network.inits))
        for network in _networks(grid, choices.networks)
    )
    checkpoints = grid.checkpoints
    if choices.steps is not None:
        kept = {step for step in checkpoints if step <= choices.steps}
        checkpoints = tuple(sorted(kept | {choices.steps}))
    elif choices.quick:
        checkpoints = tuple(step for step in checkpoints if step <= QUICK_STEPS) or checkpoints[:1]
    names = [network.network for network in networks]
    trained = tuple(item for item in grid.optimizers if any(map(item.trains, names)))
    return dataclasses.replace(grid, networks=networks, optimizers=trained, checkpoints=checkpoints)


def _networks(grid: Grid, names: tuple[str, ...]) -> tuple[NetworkInits, ...]:
    """The study's networks, or those of them that were asked for."""
    known = [network.network for network in grid.networks]
    asked = {choose("--network", name, known) for name in names}
    return tuple(network for network in grid.networks if not asked or network.network in asked)


def _larger_cohorts(spec: RunSpec) -> RunSpec:
    """The spec with cohorts as large as they may well be, of networks whose bits do not depend on a cohort's size.

    Many initialisations have fewer cohorts, and few do not fill a cohort up with others.
    """
    from ..engines.engine import engine_of

    networks = []
    for network in spec.networks:
        size = network.cohort_inits
        # A network that the engine lacks is refused later.
        if all(engine_of(spec, policy, network.network).portable for policy in spec.policies):
            size = max(size, min(-(-network.inits // _MOST_COHORTS), _MOST_MODELS // len(spec.family)))
            size = min(size, network.inits)
        networks.append(dataclasses.replace(network, cohort_inits=size))
    return dataclasses.replace(spec, networks=tuple(networks))


def _settled(spec: RunSpec) -> RunSpec:
    """The spec with what ``auto`` takes by name: one engine, or one for each policy and network."""
    from ..engines.engine import engine_of

    cells = [(policy, item.network) for policy in spec.policies for item in spec.networks]
    own = tuple((*cell, engine_of(spec, *cell).name) for cell in cells)
    several = len({name for _, _, name in own}) > 1
    return dataclasses.replace(spec, engines=own) if several else dataclasses.replace(spec, engine=own[0][2])


QUICK_STEPS = 50
"""How far ``--quick`` goes."""


def _resolve(choices: Choices) -> tuple[str, str]:
    """The device, and the backend that is used on it."""
    import torch

    from kernels import available_backends, resolve_backend

    from ..engines.engine import ENGINES
    from ..support.cli import resolve_device

    check_choice("--engine", choices.engine, (AUTO, *ENGINES))
    check_choice("--backend", choices.backend, ("auto", *available_backends()))
    device = resolve_device(choices.device)
    if choices.backend == "interpreter" and device == "cpu":
        return device, choices.backend  # in workers of its own
    with input_errors("--backend", choices.backend):
        return device, resolve_backend(choices.backend, torch.device(device))


def _check(spec: RunSpec) -> None:
    """Chooses the engine and builds every record once: what either refuses shows before the run begins."""
    from kernels import get_algorithm

    from ..engines.engine import choose_engine

    for policy in spec.policies:
        for network in spec.networks:
            choose_engine(spec, policy, network.network).check(spec, get_policy(policy), network)
    for optimizer in spec.optimizers:
        algorithm = get_algorithm(optimizer.algorithm)
        base = make_record(algorithm, {"lr": spec.lr, **dict(optimizer.options)}, "--optimizer", optimizer.typed)
        for member in spec.family:
            with input_errors("--scale", member.scale):
                record = member.hyperparameters(algorithm, base)
                check_finite(record, f"--optimizer {optimizer.typed} --scale", member.scale)


def _manifest(study: Study, seed: int, device: str, spec: RunSpec | None, options: dict[str, Any]) -> Manifest:
    from ..engines.engine import is_portable

    provenance, key = origin_of(
        study.name,
        device,
        portable=spec is not None and is_portable(spec),
        networks=tuple(item.network for item in spec.networks) if spec is not None else (),
    )
    return Manifest(
        study=study.name,
        seed=seed,
        spec=None if spec is None else spec.as_dict(),
        options=options,
        provenance=dict(provenance),
        resume_key=dict(key),
    )


def origin_of(study: str, device: str, *, portable: bool, networks: tuple[str, ...] = ()) -> Origin:
    """Provenance and resume key of this process.

    Args:
        study: name of the study that it has a part in.
        device: ``cpu`` or ``cuda``.
        portable: whether the run's bits are the same on every machine.
        networks: of the run; those whose data are not in the repository add a digest of them.
    """
    from ..models.modules import data_digests
    from ..models.networks import products_key
    from ..support.provenance import collect

    provenance = collect(device)
    return provenance.as_dict(), {
        **provenance.resume_key(portable=portable),
        SOURCES: digest(study),
        **data_digests(networks),
        **({} if portable else products_key(networks, device)),
    }
