"""Studies: one file or folder each, with its grid and predictions, or a script of its own, and how it shows itself.

It defines ``STUDY``. The registry finds the modules of this folder by name, so adding a study is adding a file. Nothing
here imports torch, and a study imports only `design` until it is run: listing the studies is fast.
"""

from __future__ import annotations

import importlib
import pkgutil

from ..design.study import Study

DEFAULT = "loss-vs-lr"
"""The default study: is a loss multiplied by s the same as a learning rate multiplied by s?"""


def names() -> tuple[str, ...]:
    """Names of all studies, the default one first."""
    found = sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(found, key=lambda name: name != DEFAULT))


def get(name: str) -> Study:
    """The study of that name; KeyError when there is none."""
    if name not in names():
        raise KeyError(name)
    module = importlib.import_module(f".{name.replace('-', '_')}", __name__)
    study = module.STUDY
    assert isinstance(study, Study) and study.name == name, f"{module.__name__}.STUDY must be the study {name!r}"
    return study


def every() -> tuple[Study, ...]:
    """All studies, the default one first."""
    return tuple(get(name) for name in names())
