"""Fused Triton optimizer steps, bit-identical to torch.optim: SGD, Adam, AdamW, RMSprop, Adagrad, and Adam-atan2.

The drop-in classes take what torch.optim's take; `functional` has a step as a function; `Population` steps many models
at once; `bits` compares results.
"""

import dis
import sys
from typing import TYPE_CHECKING, Any

from . import algorithms, backends, bits, functional, launch, population, rounding
from .algorithm import ALGORITHMS, Algorithm, Recipe, State, get_algorithm, register
from .backends import available_backends, interpreter, resolve_backend
from .fingerprint import fingerprint
from .launch import step_kernel, tables
from .optim import StepOptimizer, compiled_look_missing, graphed, make_optimizer
from .population import NETWORKS, POLICIES, MinibatchLinear, Network, Policy, Population, Trainer, optimizer_step
from .rounding import flags
from .rounding.dtypes import DTYPES
from .rounding.powers import BIAS_CORRECTIONS

if not TYPE_CHECKING:
    # Not for type checkers: they shall go on to say that a name is missing.

    def __getattr__(name: str) -> Any:
        """A name that we lack: to ``from kernels import name`` this package is not there.

        Libraries look for another package of our name (the Hub's ``kernels``) and go on without it when it is missing.
        """
        frame = sys._getframe(1)
        if frame.f_code.co_code[frame.f_lasti] == dis.opmap["IMPORT_FROM"]:
            raise ModuleNotFoundError(
                f"No module named 'kernels' with a {name!r}: this kernels is the one of lossscale-bench", name="kernels"
            )
        raise AttributeError(f"module 'kernels' has no attribute {name!r}")


CLASSES = {algorithm.title: make_optimizer(algorithm) for algorithm in ALGORITHMS.values()}
"""The drop-in class of every registered algorithm, by its title."""

SGD = CLASSES["SGD"]
Adam = CLASSES["Adam"]
AdamW = CLASSES["AdamW"]
RMSprop = CLASSES["RMSprop"]
Adagrad = CLASSES["Adagrad"]
AdamAtan2 = CLASSES["AdamAtan2"]
# Those above have a name that type checkers see; a new algorithm's class is there all the same.
globals().update(CLASSES)

__all__ = [
    "ALGORITHMS",
    "BIAS_CORRECTIONS",
    "CLASSES",
    "DTYPES",
    "NETWORKS",
    "POLICIES",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamAtan2",
    "AdamW",
    "Algorithm",
    "MinibatchLinear",
    "Network",
    "Policy",
    "Population",
    "RMSprop",
    "Recipe",
    "State",
    "StepOptimizer",
    "Trainer",
    "algorithms",
    "available_backends",
    "backends",
    "bits",
    "compiled_look_missing",
    "fingerprint",
    "flags",
    "functional",
    "get_algorithm",
    "graphed",
    "interpreter",
    "launch",
    "make_optimizer",
    "optimizer_step",
    "population",
    "register",
    "resolve_backend",
    "rounding",
    "step_kernel",
    "tables",
]
