"""What is measured on every pair at a checkpoint, for all pairs of a cohort at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kernels import Algorithm, bits

from . import theory
from .spec import Arm, Pairing

QUANTILES: Final = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Quantiles of eps/r that are kept."""

SMALLEST_NORMAL: Final = 2.0**-126

Columns = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A cohort at a checkpoint; every tensor [models, n] unless said otherwise, the models of a family side by side.

    Attributes:
        step: counted from 1.
        initial: parameters before the first step.
        before: parameters before this step.
        params: parameters after it.
        grads: the gradients that the optimizer saw.
        losses: [models], of the batch of this step, before it, not scaled.
        state: the optimizer's state after the step.
    """

    step: int
    initial: Tensor
    before: Tensor
    params: Tensor
    grads: Tensor
    losses: Tensor
    state: Mapping[str, Tensor]


class Observer:
    """Measures the pairs of a cohort.

    Args:
        algorithm: decides the degrees of the state.
        hyperparameters: one record per arm.
        arms: of every family.
        pairings: of every family, as indices into ``arms``.
        families: how many families are measured; those after them are dropped.
    """

    def __init__(
        self,
        *,
        algorithm: Algorithm,
        hyperparameters: Sequence[Any],
        arms: Sequence[Arm],
        pairings: Sequence[Pairing],
        families: int,
    ) -> None:
        self._algorithm = algorithm
        self._hyper = tuple(hyperparameters)
        self._arms = tuple(arms)
        self._families = families
        self._arm = [pairing.arm for pairing in pairings]
        self._against = [pairing.against for pairing in pairings]

    def observe(self, now: Snapshot) -> Columns:
        """One value per kept family and pair, families outermost."""
        models = self._per_model(now)
        columns = {
            **self._distances(now),
            "update_norm_ratio": self._at(models["update"], self._arm) / self._at(models["update"], self._against),
            **self._predictions(now),
            **self._denominators(now),
            "moved": self._at(models["moved"], self._arm),
            "loss_arm": self._at(models["loss"], self._arm),
            "loss_against": self._at(models["loss"], self._against),
            "smallest_grad": self._at(models["smallest_grad"], self._arm),
            "nonfinite": self._at(models["nonfinite"], self._arm),
            **self._state(now),
        }
        return {name: tensor.reshape(-1).cpu().numpy() for name, tensor in columns.items()}

    def _by_family(self, tensor: Tensor) -> Tensor:
        """[kept families, arms, …] of a [models, …] tensor."""
        return tensor.view(-1, len(self._arms), *tensor.shape[1:])[: self._families]

    def _at(self, tensor: Tensor, indices: Sequence[int]) -> Tensor:
        """[kept families, len(indices), …] of a [models, …] tensor."""
        return self._by_family(tensor)[:, list(indices)]

    def _per_model(self, now: Snapshot) -> dict[str, Tensor]:
        """[models] each."""
        magnitude = now.grads.abs()
        smallest = torch.where(magnitude == 0, torch.inf, magnitude).amin(1).double()
        return {
            "update": _norm(now.params.double() - now.before.double()),
            "moved": _norm(now.params.double() - now.initial.double()),
            "loss": now.losses.double(),
            "smallest_grad": torch.where(smallest.isinf(), torch.nan, smallest),
            "nonfinite": (~now.params.isfinite()).sum(1),
        }

    def _distances(self, now: Snapshot) -> dict[str, Tensor]:
        arm, against = self._at(now.params, self._arm), self._at(now.params, self._against)
        differing = bits.differing_bits(arm, against).sum(2)
        distance = _norm(arm.double() - against.double())
        return {
            "identical": differing == 0,
            "differing_bits": differing,
            "max_ulp": bits.ulp_distance(arm, against).amax(2),
            "rel_distance": torch.where(distance == 0, distance, distance / _norm(against.double())),
        }

    def _denominators(self, now: Snapshot) -> dict[str, Tensor]:
        """Quantiles of eps/r over v > 0, and the share of v = 0, of the model that a pair is measured against."""
        needed = sorted(set(self._against))
        place = [needed.index(index) for index in self._against]
        names = [f"eps_over_r_q{round(100 * quantile):02d}" for quantile in QUANTILES]
        root = self._root(now, needed)
        if root is None:
            nothing = torch.full((self._families, len(place)), torch.nan, dtype=torch.float64)
            return dict.fromkeys((*names, "v_zero_share"), nothing)
        ratio = torch.where(root > 0, self._per_arm("eps", needed, root) / root, torch.nan)
        levels = torch.tensor(QUANTILES, dtype=root.dtype, device=root.device)
        found = torch.nanquantile(ratio, levels, dim=2)
        values = {name: row[:, place] for name, row in zip(names, found, strict=True)}
        return {**values, "v_zero_share": (root == 0).double().mean(2)[:, place]}

    def _root(self, now: Snapshot, arms: Sequence[int]) -> Tensor | None:
        """[kept families, arms, n] float64: r, the root of the second moment as it divides; None without one."""
        state = {name: self._at(tensor, arms).double() for name, tensor in now.state.items()}
        if "exp_avg_sq" in state:
            moment = state.get("max_exp_avg_sq", state["exp_avg_sq"])
            kept = [float(self._hyper[index].betas[1]) ** now.step for index in arms]
            return torch.sqrt(moment / (1.0 - _column(kept, moment)))
        if "square_avg" in state:
            mean = state.get("grad_avg")
            return torch.sqrt(state["square_avg"] if mean is None else state["square_avg"] - mean.square())
        return torch.sqrt(state["sum"]) if "sum" in state else None

    def _per_arm(self, name: str, arms: Sequence[int], like: Tensor) -> Tensor:
        """[arms, 1] of a hyperparameter, NaN where the algorithm has none."""
        return _column([getattr(self._hyper[index], name, float("nan")) for index in arms], like)

    def _predictions(self, now: Snapshot) -> dict[str, Tensor]:
        """The closed form for loss × s against base at step 1, from base's own elements, with its rounding's bound."""
        shape = (self._families, len(self._arm))
        predicted = torch.full(shape, torch.nan, dtype=torch.float64, device=now.params.device)
        bound = predicted.clone()
        chosen = [
            index
            for index, (arm, against) in enumerate(zip(self._arm, self._against, strict=True))
            if self._arms[arm].name == "loss" and self._arms[against].name == "base"
        ]
        root = self._root(now, [0]) if now.step == 1 and chosen else None
        if root is None or not self._closed_form_applies():
            return {"predicted_update_norm_ratio": predicted, "update_norm_ratio_tolerance": bound}
        tensors = {"p0": now.before, "p1": now.params, "grads": now.grads}
        base = {name: self._by_family(tensor)[:, 0] for name, tensor in tensors.items()}
        updates = base["p1"].double() - base["p0"].double()
        decay = self._decoupled_decay(base["p0"])
        eps = self._per_arm("eps", [0], updates).expand(self._families, 1)
        for index in chosen:
            scale = torch.full_like(eps, self._arms[self._arm[index]].scale)
            scaled, seen = (self._by_family(tensor)[:, self._arm[index]] for tensor in (now.params, now.grads))
            predicted[:, index] = theory.predicted_update_norm_ratio(updates, root[:, 0], eps, scale, decay=decay)
            bound[:, index] = theory.update_norm_ratio_tolerance(
                updates,
                base["p1"],
                scaled,
                root[:, 0],
                eps,
                scale,
                grads=base["grads"],
                arm_grads=seen,
                decay=decay,
            )
        return {"predicted_update_norm_ratio": predicted, "update_norm_ratio_tolerance": bound}

    def _closed_form_applies(self) -> bool:
        """Not with a coupled (L2) decay in the gradient, without an eps outside the root, or where v begins above 0."""
        degrees, base = self._algorithm.degrees, self._hyper[0]
        coupled = degrees.get("weight_decay", 0) != 0 and getattr(base, "weight_decay", 0.0) != 0
        begun = getattr(base, "initial_accumulator_value", 0.0) != 0
        return degrees.get("eps") == 1 and not coupled and not begun

    def _decoupled_decay(self, before: Tensor) -> Tensor | None:
        """[families, n]: the part of base's update that does not come from the loss."""
        base = self._hyper[0]
        if self._algorithm.degrees.get("weight_decay") != 0 or getattr(base, "weight_decay", 0.0) == 0:
            return None
        return before.double() * -float(base.lr * base.weight_decay)

    def _state(self, now: Snapshot) -> dict[str, Tensor]:
        """Whether the states agree once each is brought back to the scale of the unscaled loss.

        Elements that are subnormal, or underflowed to 0, in either run are counted and left out.
        """
        shape = (self._families, len(self._arm))
        equal = torch.ones(shape, dtype=torch.bool, device=now.params.device)
        left_out = torch.zeros(shape, dtype=torch.int64, device=now.params.device)
        for name, tensor in now.state.items():
            degree = self._algorithm.degrees[name]
            units = _column([arm.loss_factor**degree for arm in self._arms], tensor)
            unscaled = (tensor.view(-1, len(self._arms), tensor.shape[1]).double() / units).view(tensor.shape)
            ours, theirs = self._at(unscaled, self._arm), self._at(unscaled, self._against)
            tiny = torch.zeros_like(ours, dtype=torch.bool)
            for unit in (units[self._arm], units[self._against]):
                tiny |= _subnormal(ours * unit) | _subnormal(theirs * unit)
            left_out += tiny.sum(2)
            equal &= ((ours == theirs) | (ours.isnan() & theirs.isnan()) | tiny).all(2)
        return {"state_identical": equal, "state_subnormal": left_out}


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    """[len(values), 1] float64."""
    return torch.tensor(values, dtype=torch.float64, device=like.device).unsqueeze(1)


def _norm(rows: Tensor) -> Tensor:
    """Euclidean norm over the last dimension."""
    norms: Tensor = torch.linalg.vector_norm(rows, dim=-1)
    return norms


def _subnormal(values: Tensor) -> Tensor:
    """Whether a float32 holding each value would be subnormal."""
    magnitude = values.abs()
    return (magnitude > 0) & (magnitude < SMALLEST_NORMAL)


def join(parts: Sequence[Columns]) -> Columns:
    """The columns of several observations, one after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
