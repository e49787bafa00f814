"""Which policies an engine can run whose populations are stepped by `kernels`."""

from __future__ import annotations

import kernels

from ..design.policies import Policy


def population_refusal(engine: str, policy: Policy) -> str:
    """Why the engine of that name cannot run the policy; empty if it can."""
    try:
        kernels.Policy(**vars(policy))
    except ValueError as error:
        return f"the {engine} engine does not run this policy ({error})"
    return ""
