"""New hyperparameters in a saved group, and the learning rates that schedulers keep in files of their own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from ..checkpoints.files import children
from ..checkpoints.groups import GROUP_RATES, number_of
from ..design.options import check_finite

if TYPE_CHECKING:
    from pathlib import Path

    from kernels import Algorithm

_FILE_RATES: Final = ("base_lrs", "max_lrs", "min_lrs", "default_min_lr", "eta_min", "_last_lr")
"""Learning rates in a scheduler's own state_dict."""


def write_group(algorithm: Algorithm, group: dict[str, Any], then: Any, by: float) -> None:
    """Puts new hyperparameters into a group, and multiplies a scheduler's rates in it."""
    import torch

    degrees = algorithm.degrees_of(then)
    for name in algorithm.hyperparameter_names:
        if degrees.get(name, 0):
            old, new = group.get(name), getattr(then, name)
            group[name] = torch.full_like(old, new) if isinstance(old, torch.Tensor) else new
    for name in GROUP_RATES:
        if name in group and by != 1:
            group[name] = group[name] * by


def scale_file_rates(
    document: Any, by: float, argument: str, path: Path, place: str = "", seen: set[int] | None = None
) -> list[dict[str, Any]]:
    """Multiplies the learning rates of every scheduler's state_dict in a document, in place.

    Returns:
        A row for each: its place (``lr_schedulers.0.base_lrs``), what it was and what it is.
    """
    rows: list[dict[str, Any]] = []
    seen = set() if seen is None else seen
    if id(document) in seen:  # a file keeps one object once, however often it is named
        return rows
    seen.add(id(document))
    if isinstance(document, dict) and ("base_lrs" in document or "_last_lr" in document):
        # ReduceLROnPlateau's eps is the smallest change of a learning rate.
        for name in (*_FILE_RATES, *(("eps",) if "min_lrs" in document else ())):
            if document.get(name) is None:
                continue
            old = document[name]
            several = isinstance(old, list | tuple)
            numbers = [number_of(name, item, argument, path) for item in (old if several else [old])]
            check_finite(SimpleNamespace(**{name: max(map(abs, numbers), default=0.0) * by}), "--scale", f"{by:g}")
            document[name] = type(old)(item * by for item in old) if several else old * by
            rows.append({"rate": f"{place}{name}", "now": numbers, "set_to": [item * by for item in numbers]})
    for name, inner in children(document):
        if not (isinstance(inner, dict) and "param_groups" in inner):
            rows += scale_file_rates(inner, by, argument, path, f"{place}{name}.", seen)
    return rows
