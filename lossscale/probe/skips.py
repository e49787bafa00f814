"""How many steps torch.amp.GradScaler left out, from what it tells: no step is watched that does not run."""

from __future__ import annotations

import math
from typing import Any, Final

from torch import Tensor

_TOLD: Final = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}
"""What a scaler's state_dict has to tell."""


class Skips:
    """Counts the steps that a scaler skipped.

    A skipped step may never reach the optimizer, but it shows in the scale, which has been backed off. Between two
    readings of the scaler nothing but backoffs may have changed the scale: it is read at every look, and before and
    after every update that could let it grow. A reading waits for the device, so there are no others.

    Args:
        scaler: a torch.amp.GradScaler, or None. One scaler for several optimizers backs off for any of them.

    Raises:
        TypeError: it has no state_dict with a scale's growth and backoff.
    """

    def __init__(self, scaler: Any) -> None:
        self._scaler = scaler
        self._counted = 0
        self._flagged: Tensor | None = None
        self._updates = 0  # of the scaler after steps that ran, since the last reading: as many at most
        self._reaches = False  # whether skipped steps reach the optimizer too, with a flag
        known = scaler is None or all(hasattr(scaler, name) for name in ("get_scale", "state_dict", "is_enabled"))
        self.enabled = known and scaler is not None and bool(scaler.is_enabled())
        """Whether there is a scaler that scales."""
        self._last: dict[str, Any] = scaler.state_dict() if self.enabled else {}
        if not known or (self.enabled and not set(self._last) >= _TOLD):
            kind = type(scaler).__name__
            raise TypeError(f"scaler {kind}: is no GradScaler; give a torch.amp.GradScaler, or leave it out")

    def ran(self, found_inf: Tensor | None, *, reading: bool) -> None:
        """A step reached the optimizer, with the flag of infinities that it was handed: no update has followed yet.

        Args:
            found_inf: the flag, None where the scaler itself leaves steps out.
            reading: whether the scaler is to be read in any case.
        """
        self._reaches = found_inf is not None
        if self.enabled:
            # The update that follows could let the scale grow.
            if reading or self._may_grow(self._updates + 1):
                self.read()
            self._updates += 1
        elif found_inf is not None:
            flag = found_inf.detach() != 0
            self._flagged = flag.long() if self._flagged is None else self._flagged.add_(flag)

    @property
    def scale(self) -> float:
        """What the scaler multiplied the loss by when it was read last; 1 without one."""
        return float(self._last["scale"]) if self.enabled else 1.0

    def read(self) -> None:
        """Counts what the scaler has skipped up to now. It waits for the device."""
        if not self.enabled:
            return
        now = self._scaler.state_dict()
        self._counted += self._backoffs(now)
        self._last, self._updates = now, 0

    def counts(self) -> tuple[int, int]:
        """Steps that were skipped up to the last reading, and how many of them never reached the optimizer."""
        flagged = 0 if self._flagged is None else int(self._flagged)
        return self._counted + flagged, 0 if self._reaches else self._counted

    def _may_grow(self, updates: int) -> bool:
        """Whether the scale may have grown after so many updates since the last reading."""
        grown: bool = self._last["_growth_tracker"] + updates >= self._last["growth_interval"]
        return grown

    def _backoffs(self, now: dict[str, Any]) -> int:
        """How often the scale was backed off since the last reading."""
        backoff, growth = float(now["backoff_factor"]), float(now["growth_factor"])
        reached = float(self._last["scale"])
        # One update only may have let it grow, of a step that ran right after a reading; a backoff may follow at once.
        # Where skipped steps reach the optimizer too, that step may have been one.
        grown = self._updates > 0 and self._may_grow(self._updates) and now["_growth_tracker"] == 0
        if grown and (not self._reaches or now["scale"] > reached):
            reached *= growth
        if not 0 < now["scale"] < reached or not 0 < backoff < 1:
            return 0
        return round(math.log(now["scale"] / reached) / math.log(backoff))
