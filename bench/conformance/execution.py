"""Cases in workers: what a batch of comparisons is, and what becomes of one whose worker does not answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ..providers.base import Provider
from ..workers import Batch, Ending, Loss, Pool, one_thread
from .cases import Case
from .rows import Outcome, Row, row_of

Cases = Batch[Case, Row]
CasePool = Pool[Case, Row]


@dataclass(frozen=True, kw_only=True)
class Comparing:
    """Compares one case after another on a device.

    Attributes:
        provider: under test.
        against: the reference; None for float64, step by step.
        device: as torch names it.
        allowed: the ulp from float64 that the provider claims, where that is the claim.
        claimed: whether a difference is a failed claim; its row says what torch's own implementation does there.
    """

    provider: Provider
    against: Provider | None
    device: str
    allowed: int | None = None
    claimed: bool = False

    def __call__(self, case: Case) -> Row:
        """The row of one case."""
        row = self._row(case, self.provider)
        if not self.claimed or row.first_mismatch is None:
            return row
        return replace(row, first_mismatch=replace(row.first_mismatch, torch=self._torchs_own(case)))

    def _row(self, case: Case, provider: Provider) -> Row:
        import torch

        from .compare import run_case
        from .drift import run_drift

        device = torch.device(self.device)
        if self.against is None:
            return run_drift(case, provider, device, allowed=self.allowed)
        return run_case(case, provider, provider if case.power else self.against, device)

    def _torchs_own(self, case: Case) -> str:
        """What torch does in a case that failed, against the same reference: its for-loop, or foreach beside that."""
        from ..providers.torch_optim import TorchOptim

        own = TorchOptim(implementation="for-loop")
        if own in (self.provider, self.against):
            own = TorchOptim(implementation="foreach")
        row = self._row(case, own)
        if not row.outcome.compared:
            return ""
        return f"{own.name} {'is identical' if row.outcome is Outcome.IDENTICAL else row.distance()} there"

    def unfinished(self, case: Case, outcome: Outcome, why: str) -> Row:
        """The row of a case whose worker did not answer."""
        return row_of(case, self.provider.name, self.against.name if self.against else "float64", outcome, why)


def batch(
    provider: Provider,
    against: Provider | None,
    cases: Iterable[Case],
    device: str,
    *,
    allowed: int | None = None,
    claimed: bool = False,
) -> Cases:
    """Cases of one provider for one worker."""
    work = Comparing(provider=provider, against=against, device=device, allowed=allowed, claimed=claimed)
    return Batch(work=work, items=tuple(cases))


def by_variant(pairs: Iterable[tuple[Provider, Provider, Case]], device: str) -> list[Cases]:
    """Batches that share their kernels' machine code, in the order in which each first appears."""
    grouped: dict[tuple[str, ...], list[Case]] = {}
    sides: dict[tuple[str, ...], tuple[Provider, Provider]] = {}
    for provider, against, case in pairs:
        key = (provider.name, against.name, *case.variant())
        grouped.setdefault(key, []).append(case)
        sides[key] = provider, against
    return [batch(*sides[key], cases, device) for key, cases in grouped.items()]


def case_pool(*, workers: int, limit_s: float, environment: Mapping[str, str] | None = None) -> CasePool:
    """A pool that compares cases."""
    return Pool(
        count=workers,
        limit_s=limit_s,
        lost=_lost,
        environment=environment,
        setup=prepare,
        worn=_context_lost,
        whose=_whose,
    )


def prepare() -> None:
    """Load what comparisons need: on a busy machine that takes longer than a case may, and is no provider's fault."""
    one_thread()
    import torch

    from . import compare, drift

    del compare, drift
    # Its first optimizer has torch load most of its compiler.
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.0)


def _whose(cases: Cases) -> str:
    assert isinstance(cases.work, Comparing)
    return cases.work.provider.name


def _lost(cases: Cases, case: Case, loss: Loss) -> Row:
    assert isinstance(cases.work, Comparing)
    outcome = Outcome.TIMEOUT if loss.ending is Ending.HUNG else Outcome.ERROR
    return cases.work.unfinished(case, outcome, loss.text)


def _context_lost(row: Row) -> bool:
    """Whether an error took the CUDA context along: then every later call in this process would be a false error."""
    if row.outcome is not Outcome.ERROR:
        return False
    import torch

    if torch.cuda.is_available():
        try:
            torch.cuda.synchronize()
        except Exception:
            return True
    return False
