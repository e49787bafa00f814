"""What measures are made of: the pairs of a cohort at one checkpoint, every shared number computed once.

A tensor "of models" is [models, …]; one "of pairs" is [kept families, pairs, …]. `of_arm` and `of_against` lead from
the first to the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kernels import DTYPES, bits

from .. import theory
from ..design.measures import EPS_QUANTILES
from ..diagnose import steps
from .pairwise import Compared, Sides, States, compare_params, compare_states

if TYPE_CHECKING:
    from .observer import Observer, Snapshot


@dataclass(frozen=True, kw_only=True)
class ClosedForm:
    """The update-norm ratio that is predicted for a pair, and how far off it may be measured; NaN where it is not."""

    ratio: Tensor
    tolerance: Tensor


class Observation:
    """A snapshot as measures read it.

    Args:
        observer: whose pairs are measured.
        snapshot: the cohort at the checkpoint.
    """

    def __init__(self, observer: Observer, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._algorithm = observer.algorithm
        self._hyper = observer.hyperparameters
        self._family = observer.family
        self._kept = observer.kept
        self._norm = observer.arithmetic.norm
        self._closed_form_norm = observer.arithmetic.closed_form_norm
        self._quantiles = observer.arithmetic.quantiles
        self._smallest_normal = DTYPES[observer.policy.state].smallest_normal
        self._arm = [pairing.arm for pairing in observer.pairings]
        self._against = [pairing.against for pairing in observer.pairings]

    def of_arm(self, tensor: Tensor) -> Tensor:
        """[kept families, pairs, …]: each pair's arm, of a tensor of models."""
        return self._at(tensor, self._arm)

    def of_against(self, tensor: Tensor) -> Tensor:
        """[kept families, pairs, …]: what each pair's arm is compared with, of a tensor of models."""
        return self._at(tensor, self._against)

    @cached_property
    def update(self) -> Tensor:
        """[models]: length of this step."""
        return self._norm(self.snapshot.params.double() - self.snapshot.before.double())

    @cached_property
    def moved(self) -> Tensor:
        """[models]: distance from the initialisation."""
        return self._norm(self.snapshot.params.double() - self.snapshot.initial.double())

    @cached_property
    def moved_elements(self) -> Tensor:
        """[models]: of the elements with a gradient now, the share that left its initialisation; NaN without any."""
        alive = self.snapshot.grads != 0
        left = alive & (self.snapshot.params != self.snapshot.initial)
        return left.double().sum(1) / alive.double().sum(1)

    @cached_property
    def loss(self) -> Tensor:
        """[models]: of this step's batch, not scaled."""
        return self.snapshot.losses.double()

    @cached_property
    def smallest_grad(self) -> Tensor:
        """[models]: smallest magnitude of a gradient other than 0, NaN without one."""
        magnitude = self.snapshot.grads.abs()
        smallest = torch.where(magnitude == 0, torch.inf, magnitude).amin(1).double()
        return torch.where(smallest.isinf(), torch.nan, smallest)

    @cached_property
    def nonfinite(self) -> Tensor:
        """[models]: parameters that are infinite or NaN."""
        return (~self.snapshot.params.isfinite()).sum(1)

    @cached_property
    def skipped(self) -> Tensor:
        """[models]: steps so far that the optimizer did not take, for gradients that were not finite."""
        if self.snapshot.taken is None:
            return torch.zeros(len(self.snapshot.params), dtype=torch.int64)
        return self.snapshot.step - self.snapshot.taken

    @cached_property
    def differing_bits(self) -> Tensor:
        """Of pairs: parameter bits that differ."""
        return self._compared.differing_bits

    @cached_property
    def differing_elements(self) -> Tensor:
        """Of pairs: parameters whose bits differ."""
        return bits.mismatch_mask(*self._sides.of(self._by_family(self.snapshot.params))).sum(2)

    @cached_property
    def max_ulp(self) -> Tensor:
        """Of pairs: the largest distance of two parameters in units in the last place."""
        return self._compared.max_ulp

    @cached_property
    def rel_distance(self) -> Tensor:
        """Of pairs: |arm − against| / |against|."""
        distance = self._compared.distance
        return torch.where(distance == 0, distance, distance / self.of_against(self._size))

    @cached_property
    def distance_over_moved(self) -> Tensor:
        """Of pairs: d = |arm − against| / |against − its initialisation|; 0 for pairs that agree, wherever they are."""
        distance = self._compared.distance
        return torch.where(distance == 0, distance, distance / self.of_against(self.moved))

    @cached_property
    def size_ratio(self) -> Tensor:
        """Of pairs: |arm| / |against|."""
        return self.of_arm(self._size) / self.of_against(self._size)

    def eps_over_r(self, level: float) -> Tensor:
        """Of pairs: a quantile of eps/r over v > 0 (a level of EPS_QUANTILES), of what the arm is compared with."""
        return self._denominators[0][EPS_QUANTILES.index(level)]

    @property
    def v_zero_share(self) -> Tensor:
        """Of pairs: the share of v = 0, of what the arm is compared with."""
        return self._denominators[1]

    @cached_property
    def closed_form(self) -> ClosedForm:
        """Of pairs: predicted for loss × s against base at step 1, from base's own elements, with its bound."""
        shape = (self._kept, len(self._arm))
        predicted = torch.full(shape, torch.nan, dtype=torch.float64, device=self.snapshot.params.device)
        bound = predicted.clone()
        chosen = [
            index
            for index, (arm, against) in enumerate(zip(self._arm, self._against, strict=True))
            if against == 0 and self._family[arm].arm.scales_only_the_loss
        ]
        root = self._root([0]) if self.snapshot.step == 1 and chosen else None
        if root is None or not self._closed_form_applies:
            return ClosedForm(ratio=predicted, tolerance=bound)
        tensors = {"p0": self.snapshot.before, "p1": self.snapshot.params, "grads": self.snapshot.grads}
        base = {name: self._by_family(tensor)[:, 0] for name, tensor in tensors.items()}
        updates = base["p1"].double() - base["p0"].double()
        decay = self._decoupled_decay(base["p0"])
        eps = self._hyperparameter("eps", [0], updates).expand(self._kept, 1)
        for index in chosen:
            scale = torch.full_like(eps, self._family[self._arm[index]].loss_factor)
            scaled, seen = (
                self._by_family(tensor)[:, self._arm[index]] for tensor in (self.snapshot.params, self.snapshot.grads)
            )
            predicted[:, index] = theory.predicted_update_norm_ratio(
                updates, root[:, 0], eps, scale, decay=decay, norm=self._closed_form_norm
            )
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
                norm=self._closed_form_norm,
            )
        return ClosedForm(ratio=predicted, tolerance=bound)

    @cached_property
    def states(self) -> States:
        """Of pairs: whether the states agree once each is brought back to the scale of the unscaled loss.

        Elements that are subnormal, or underflowed to 0, in either run are counted and left out.
        """
        if not self.snapshot.state:
            shape, device = (self._kept, len(self._arm)), self.snapshot.params.device
            return States(
                identical=torch.ones(shape, dtype=torch.bool, device=device),
                left_out=torch.zeros(shape, dtype=torch.int64, device=device),
            )
        degrees = self._algorithm.degrees
        states = [
            (self._by_family(tensor), [member.loss_factor ** degrees[name] for member in self._family])
            for name, tensor in self.snapshot.state.items()
        ]
        return compare_states(states, self._sides, self._smallest_normal)

    @cached_property
    def _compared(self) -> Compared:
        return compare_params(self._by_family(self.snapshot.params), self._sides, self._norm)

    @cached_property
    def _size(self) -> Tensor:
        """[models]: |parameters|."""
        return self._norm(self.snapshot.params.double())

    @property
    def _sides(self) -> Sides:
        return Sides(arm=self._arm, against=self._against)

    def _by_family(self, tensor: Tensor) -> Tensor:
        """[kept families, members, …] of a tensor of models."""
        return tensor.view(-1, len(self._family), *tensor.shape[1:])[: self._kept]

    def _at(self, tensor: Tensor, indices: Sequence[int]) -> Tensor:
        """[kept families, len(indices), …] of a tensor of models."""
        return self._by_family(tensor)[:, list(indices)]

    @cached_property
    def _denominators(self) -> tuple[list[Tensor], Tensor]:
        """Of pairs: the quantiles of eps/r and the share of v = 0."""
        needed = sorted(set(self._against))
        place = [needed.index(index) for index in self._against]
        root = self._root(needed)
        if root is None:
            nothing = torch.full((self._kept, len(place)), torch.nan, dtype=torch.float64)
            return [nothing] * len(EPS_QUANTILES), nothing
        ratio = steps.eps_over_r(root, self._hyperparameter("eps", needed, root))
        found = self._quantiles(ratio, EPS_QUANTILES)
        return [row[:, place] for row in found], (root == 0).double().mean(2)[:, place]

    def _root(self, members: Sequence[int]) -> Tensor | None:
        """[kept families, members, n] float64: r, the root of the second moment as it divides; None without one."""
        state = {name: self._at(tensor, members) for name, tensor in self.snapshot.state.items()}
        taken = None if self.snapshot.taken is None else self._at(self.snapshot.taken.double().unsqueeze(1), members)
        roots = [
            steps.root(
                self._algorithm,
                {name: tensor[:, k] for name, tensor in state.items()},
                self._hyper[index],
                self.snapshot.step if taken is None else taken[:, k],
            )
            for k, index in enumerate(members)
        ]
        found = [root for root in roots if root is not None]
        return torch.stack(found, 1) if found else None

    def _hyperparameter(self, name: str, members: Sequence[int], like: Tensor) -> Tensor:
        """[members, 1] of a hyperparameter, NaN where the algorithm has none."""
        return _column([getattr(self._hyper[index], name, float("nan")) for index in members], like)

    @property
    def _closed_form_applies(self) -> bool:
        """Not with a coupled (L2) decay in the gradient, without an eps outside the root, or where v begins above 0."""
        degrees, base = self._algorithm.degrees, self._hyper[0]
        coupled = degrees.get("weight_decay", 0) != 0 and getattr(base, "weight_decay", 0.0) != 0
        begun = getattr(base, "initial_accumulator_value", 0.0) != 0
        return degrees.get("eps") == 1 and not coupled and not begun

    def _decoupled_decay(self, before: Tensor) -> Tensor | None:
        """[kept families, n]: the part of base's update that does not come from the loss."""
        base = self._hyper[0]
        if self._algorithm.degrees.get("weight_decay") != 0 or getattr(base, "weight_decay", 0.0) == 0:
            return None
        return before.double() * -float(base.lr * base.weight_decay)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    """[len(values), 1] float64."""
    return torch.tensor(values, dtype=torch.float64, device=like.device).unsqueeze(1)
