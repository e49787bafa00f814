"""The three packages belong together: a stranger of the same name must not stand in for one of them."""

import sys
from importlib.util import find_spec
from pathlib import Path

_HOME = Path(__file__).resolve().parents[2]


def require_neighbour(name: str) -> None:
    """Checks, without importing it, that the package ``name`` is the one that lies beside this one.

    A package that is missing altogether is left to the import statement that will miss it.

    Raises:
        ImportError: another package of that name comes first on ``sys.path``.
    """
    expected = _HOME / name / "__init__.py"
    loaded = sys.modules.get(name)
    spec = find_spec(name) if loaded is None else loaded.__spec__
    if spec is None or spec.origin is None:
        return
    found = Path(spec.origin).resolve()
    if found != expected:
        raise ImportError(
            f"the package {name!r} found first is {found}, not lossscale-bench's own, {expected}. "
            f"PyPI has an unrelated package called 'kernels'; run from the checkout (or with PYTHONPATH={_HOME}), "
            f"or uninstall the other one: pip uninstall {name}",
            name=name,
        )
