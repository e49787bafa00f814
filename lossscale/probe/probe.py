"""The probe: hooks around an optimizer's step that look at it now and then and change nothing."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from ..diagnose import findings, numbers
from ..diagnose.recognise import algorithm_of, missing_states, sums_exactly, unwrapped
from ..support.arguments import whole_number
from .group import Group
from .names import model_of, names_in
from .skips import Skips

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch.utils.hooks import RemovableHandle

LOG: Final = logging.getLogger("lossscale.probe")
SKIPPED: Final = 0.05
_ENOUGH_STEPS: Final = 100
_ELEMENTS: Final = 4096


class Probe:
    """Watches an optimizer's step: how much of it eps decides, what under- and overflows, what is rounded away.

    It looks at the first step and at every ``every``-th one, after the step and at a sample of the elements, and leaves
    every bit of parameters, states, gradients and random number generators as it is. `take` returns what it saw as a
    dictionary for any logger; warnings go to the logger ``lossscale.probe``, each once a group, and stay in `warnings`.
    An error inside the probe never ends the training: the probe logs it and detaches itself. Steps that are
    replayed from a CUDA graph, or compiled, are not seen. Copies of the optimizer, pickled ones too, are not watched,
    and a copy of the probe watches nothing: it has what was seen.

    Args:
        optimizer: any torch.optim.Optimizer of a class whose degrees are known: kernels' or torch's Adam, AdamW,
            RMSprop, Adagrad, SGD, Adam-atan2, classes derived from them, and what accelerate and Lightning wrap around
            them.
        every: steps from one look to the next.
        model: the module whose parameter names the numbers of single layers have, without the parts that torch.compile
            and wrappers of torch.distributed put before them; None leaves layers out.
        scaler: the torch.amp.GradScaler that steps the optimizer: its skipped steps are counted.
        elements: how many elements of a group are looked at; a parameter has at least 64 of its own.

    Raises:
        TypeError: the class has no degrees here, scaler or model is none, ``every`` or ``elements`` is no integer.
        ValueError: ``every`` or ``elements`` is below 1, the model has none of the parameters, or the states are
            another algorithm's.
    """

    def __init__(
        self,
        optimizer: Any,
        every: int = 100,
        model: torch.nn.Module | None = None,
        scaler: Any = None,
        *,
        elements: int = _ELEMENTS,
    ) -> None:
        # Not kept: the optimizer holds the probe, and would be freed late if each held the other.
        inner = unwrapped(optimizer)
        self._algorithm = algorithm_of(inner)
        self._every = whole_number("every", every, least=1, example=100)
        self._limit = whole_number("elements", elements, least=1, example=_ELEMENTS)
        self._by_layer = model is not None
        self._model = model_of(inner, model)
        for entry in inner.state.values():
            missing = missing_states(self._algorithm, entry) if entry else []
            if missing:
                title = type(inner).__name__
                raise ValueError(
                    f"optimizer {title}: its states are {', '.join(map(str, entry))}, without {', '.join(missing)}; "
                    f"the states of torch.optim's {self._algorithm.title} are needed"
                )
        self._skips = Skips(scaler)
        self._groups: list[Group] = []
        self._exact_sums = sums_exactly(name for name, value in vars(inner).items() if value is True)
        self.steps = 0
        """Steps that have reached the optimizer since the probe was attached."""
        self.warnings: list[findings.Finding] = []
        """What has been warned of, each kind once a group."""
        self.numbers: dict[str, float] = {}
        """What was seen last, by names such as ``group0/rho`` and ``layer/fc1.weight/rho``."""
        self._watching = True
        self._unread = False
        self._due = True
        self._looking = False
        self._closure = False
        self._scale: float | None = None
        self._asked = 0
        self._at_last_look = (0, 0)
        self._handles: list[RemovableHandle] = [
            inner.register_step_pre_hook(self._before_step),
            inner.register_step_post_hook(self._after_step),
        ]

    def take(self) -> dict[str, float] | None:
        """The numbers of the last look, once; None until the next one.

        While a scaler skips every step nothing reaches the optimizer: then the count of skipped steps comes every
        ``every`` calls.
        """
        if not self._watching:
            self.detach()  # it may have failed during a step
        self._asked += 1
        if not self._unread and self._asked >= self._every and self._skips.enabled:
            self.numbers = {}
            self._skips.read()
            self._numbers_of_skips()
        if not self._unread:
            return None
        self._unread, self._asked = False, 0
        return dict(self.numbers)

    def detach(self) -> None:
        """Ends the watching: what was seen stays, model and parameters are let go."""
        vars(self).update(_unattached())
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __getstate__(self) -> dict[str, Any]:
        """Of a copy, deep or pickled: what was seen, attached to nothing."""
        kept = {name: value for name, value in vars(self).items() if name != "_algorithm"}
        return kept | _unattached() | {"_handles": []}

    # -- around a step -----------------------------------------------------------------------------------------------

    def _before_step(self, optimizer: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        # Asked first: any other condition would make the step compile again when it changes.
        if torch.compiler.is_compiling() or not self._watching:
            return
        self._looking = self._due and not _is_captured()
        if not self._looking:
            return
        try:
            # A closure makes the gradients inside the step; otherwise the step may change them (it may unscale them).
            given = args[1] if len(args) > 1 else kwargs.get("closure")
            self._closure = given is not None
            scale = getattr(optimizer, "grad_scale", None)
            self._scale = None if scale is None else float(scale)
            self._regroup(optimizer.param_groups)
            for group in self._groups:
                group.before(optimizer.state, with_grads=not self._closure)
        except Exception:
            self._give_up()

    def _after_step(self, optimizer: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if torch.compiler.is_compiling() or not self._watching:
            return
        try:
            self.steps += 1
            found_inf = getattr(optimizer, "found_inf", None)
            if (found_inf is not None or self._skips.enabled) and not _is_captured():
                self._skips.ran(found_inf if isinstance(found_inf, Tensor) else None, reading=self._looking)
            if self._looking:
                self._looking = False
                self._due = found_inf is not None and bool(found_inf)  # skipped: the next one is looked at
                if not self._due:
                    self._look(optimizer)
            self._due = self._due or (self.steps + 1) % self._every == 0
        except Exception:
            self._give_up()

    def _look(self, optimizer: Any) -> None:
        self.numbers = {"step": float(self.steps)}
        scaled = self._scale if self._scale is not None else self._skips.scale
        if self._skips.enabled or self._scale is not None:
            self.numbers["loss_scale"] = scaled
            self.numbers["grads_divided_by"] = self._scale if self._scale is not None else 1.0
        self._numbers_of_skips()
        for number, (group, values) in enumerate(zip(self._groups, optimizer.param_groups, strict=True)):
            elements = group.after(
                optimizer.state,
                values,
                divided_by=self._scale if self._scale is not None else 1.0,
                backward_scale=scaled,
                exact_sums=self._exact_sums,
            )
            left_out = sum(group.left_out.values())
            self.numbers[f"group{number}/elements"] = 0.0 if elements is None else float(elements.count)
            self.numbers[f"group{number}/left_out"] = float(left_out)
            if elements is None:
                continue
            counted = numbers.count(elements)
            self._tell(f"group{number}", counted.group)
            if self._by_layer:
                for layer, row in zip(elements.layers, counted.layers, strict=True):
                    self._tell(f"layer/{layer.name}", row)
            fp16 = self._skips.enabled or self._scale is not None or group.has(torch.float16)
            for finding in findings.find(elements, counted, number, fp16=fp16):
                self._warn(finding)
        self._unread = True

    def _tell(self, whose: str, found: dict[str, float]) -> None:
        for name, value in found.items():
            self.numbers[f"{whose}/{name}"] = value

    def _numbers_of_skips(self) -> None:
        if not (self._skips.enabled or self._scale is not None):
            return
        total, unseen = self._skips.counts()
        self.numbers["skipped_steps"] = float(total)
        self._unread = True
        before, tried = self._at_last_look
        attempts = self.steps + unseen - tried
        if attempts < _ENOUGH_STEPS:
            return
        self._at_last_look = (total, self.steps + unseen)
        share = (total - before) / attempts
        if share >= SKIPPED:
            text = (
                f"{share:.0%} of the last {attempts} steps were skipped for infinite gradients: lower the scaler's "
                "growth, clip, or use bfloat16"
            )
            self._warn(findings.Finding(kind="skipped", group=-1, number=share, text=text))

    # -- inside ------------------------------------------------------------------------------------------------------

    def _regroup(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """The groups as they stand: parameters may have been added, to the model too."""
        if len(groups) != len(self._groups) or not all(
            kept.is_of(group["params"]) for kept, group in zip(self._groups, groups, strict=True)
        ):
            names = names_in(self._model)
            self._groups = [
                Group(self._algorithm, group["params"], names, number, self._limit)
                for number, group in enumerate(groups)
            ]

    def _warn(self, finding: findings.Finding) -> None:
        if all((finding.kind, finding.group) != (known.kind, known.group) for known in self.warnings):
            self.warnings.append(finding)
            LOG.warning("step %d: %s", self.steps, finding)

    def _give_up(self) -> None:
        LOG.exception("the probe has failed and is detached; the training goes on")
        vars(self).update(_unattached())  # The hooks stay until `take`: the optimizer is going through them.


def _unattached() -> dict[str, Any]:
    """What a probe that watches nothing keeps in place of what it watched."""
    return {"_watching": False, "_groups": [], "_model": None, "_skips": Skips(None)}


def _is_captured() -> bool:
    """Whether the step is being recorded instead of taken."""
    ready: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return ready and torch.cuda.is_current_stream_capturing()
