"""Result files: reading, and what every kept result says about itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SCHEMA = 1


def read_json(path: Path) -> dict[str, Any]:
    """The document in `path`, or an empty one when there is none."""
    if not path.exists():
        return {}
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def header(device: str) -> dict[str, Any]:
    """Schema, machine, versions and the fingerprint of every algorithm: what makes a result fresh or stale."""
    import kernels
    from lossscale.support import provenance

    fingerprints = {name: kernels.fingerprint(name) for name in kernels.ALGORITHMS}
    return {"schema": SCHEMA, "provenance": provenance.collect(device).as_dict(), "fingerprints": fingerprints}
