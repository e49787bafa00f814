"""How many steps torch.amp.GradScaler left out, from what it tells: no step is watched that does not run."""

from __future__ import annotations

import math
from typing import Any, Final

from torch import Tensor

_TOLD: Final = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}
"""What a scaler's state_dict has to tell."""


class Skips:
    """Counts the steps that a scaler skipped.

    A skipped step never reaches the optimizer, but it shows at the next one that does: the scale has been backed off.
    Where the optimizer is told of an infinity itself (fused optimizers), its ``found_inf`` is added up on the device,
    without waiting for it.

    Args:
        scaler: a torch.amp.GradScaler, or None. One scaler for several optimizers backs off for any of them.

    Raises:
        TypeError: it has no state_dict with a scale's growth and backoff.
    """

    def __init__(self, scaler: Any) -> None:
        self._scaler = scaler
        self._counted = 0
        self._flagged: Tensor | None = None
        known = scaler is None or all(hasattr(scaler, name) for name in ("get_scale", "state_dict", "is_enabled"))
        self._last: dict[str, Any] = scaler.state_dict() if known and self.enabled else {}
        if not known or (self.enabled and not set(self._last) >= _TOLD):
            kind = type(scaler).__name__
            raise TypeError(f"scaler {kind}: is no GradScaler; give a torch.amp.GradScaler, or leave it out")

    @property
    def enabled(self) -> bool:
        """Whether there is a scaler that scales."""
        return self._scaler is not None and bool(self._scaler.is_enabled())

    @property
    def scale(self) -> float:
        """What the scaler multiplies the loss by now; 1 without one."""
        return float(self._scaler.get_scale()) if self.enabled else 1.0

    def ran(self, found_inf: Tensor | None) -> None:
        """A step reached the optimizer, with the flag of infinities that it was handed."""
        if found_inf is not None:
            flag = (found_inf.detach() != 0).long()
            self._flagged = flag if self._flagged is None else self._flagged + flag
        elif self.enabled:
            now = self._scaler.state_dict()
            self._counted += self._backoffs(now)
            self._last = now

    def counts(self) -> tuple[int, int]:
        """Steps that were skipped so far, and how many of them never reached the optimizer. It waits for the device."""
        pending = self._backoffs(self._scaler.state_dict()) if self.enabled and self._flagged is None else 0
        unseen = self._counted + pending
        return unseen + (0 if self._flagged is None else int(self._flagged)), unseen

    def _backoffs(self, now: dict[str, Any]) -> int:
        """How often the scale was backed off since the last step that ran."""
        # Only the update after a step that ran lets the scale grow, and a backoff may follow at once.
        grown = self._last["_growth_tracker"] + 1 == self._last["growth_interval"] and now["_growth_tracker"] == 0
        backoff, growth = float(now["backoff_factor"]), float(now["growth_factor"])
        reached = float(self._last["scale"]) * (growth if grown else 1.0)
        if not 0 < now["scale"] < reached or not 0 < backoff < 1:
            return 0
        return round(math.log(now["scale"] / reached) / math.log(backoff))
