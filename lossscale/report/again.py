"""The command that makes a run again, from its manifest."""

from __future__ import annotations

from collections.abc import Iterator

from ..design.scales import scale_text
from ..design.spec import AUTO, RunSpec
from ..design.study import Study
from ..runs.records import Manifest


def command_of(manifest: Manifest, study: Study) -> str:
    """One line for a shell: the study and every choice that is not the study's own."""
    words = ["python -m lossscale run", manifest.study, *_choices(manifest, study)]
    if manifest.seed:
        words.append(f"--seed {manifest.seed}")
    return " ".join(words)


def choices_of(manifest: Manifest, study: Study) -> list[str]:
    """What was chosen that is not the study's own and decides what the run shows: not the seed, nor the engine."""
    return [word for word in _choices(manifest, study) if not word.startswith("--engine")]


def _choices(manifest: Manifest, study: Study) -> Iterator[str]:
    spec = manifest.run_spec
    if spec is None or study.grid is None:
        if manifest.options.get("quick"):
            yield "--quick"
        if manifest.options.get("steps"):
            yield f"--steps {manifest.options['steps']}"
        return
    yield from _grid_choices(spec, study)


def _grid_choices(spec: RunSpec, study: Study) -> Iterator[str]:
    grid = study.grid
    assert grid is not None, "the caller looked"
    if {item.network for item in spec.networks} != {item.network for item in grid.networks}:
        yield from (f"--network {item.network}" for item in spec.networks)
    inits = {item.network: item.inits for item in spec.networks}
    known = {item.network: item for item in grid.networks}
    quick = all(known[name].quick_inits == count for name, count in inits.items() if name in known)
    whole = all(known[name].inits == count for name, count in inits.items() if name in known)
    if quick and not whole:
        yield "--quick"
    elif not whole and len(set(inits.values())) == 1:
        yield f"--inits {next(iter(inits.values()))}"
    plain = {(item.algorithm, item.options) for item in spec.optimizers}
    if plain != {(item.algorithm, item.options) for item in grid.optimizers}:
        yield from (f"--optimizer {item.typed}" for item in spec.optimizers)
    if set(spec.scales) != set(grid.scales):
        yield from (f"--scale {scale_text(scale)}" for scale in spec.scales)
    if set(spec.policies) != set(grid.policies):
        yield from (f"--policy {name}" for name in spec.policies)
    if spec.steps != max(grid.checkpoints) and not quick:
        yield f"--steps {spec.steps}"
    if spec.engine not in (AUTO, grid.engine):
        yield f"--engine {spec.engine}"
