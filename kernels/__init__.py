"""Fused Triton optimizer steps, bit-identical to torch.optim: SGD, Adam, AdamW, RMSprop, Adagrad, and Adam-atan2.

The drop-in classes take what torch.optim's take; `functional` has a step as a function; `Population` steps many models
at once; `bits` compares results.
"""

from . import algorithms, bits, flags, functional, interpreter, launch, step_kernel, tables
from .algorithm import ALGORITHMS, Algorithm, Recipe, State, get_algorithm, register
from .backends import backends, fingerprint
from .launch import resolve_backend
from .optim import StepOptimizer, make_optimizer
from .population import Population
from .powers import BIAS_CORRECTIONS

SGD = make_optimizer(ALGORITHMS["sgd"])
Adam = make_optimizer(ALGORITHMS["adam"])
AdamW = make_optimizer(ALGORITHMS["adamw"])
RMSprop = make_optimizer(ALGORITHMS["rmsprop"])
Adagrad = make_optimizer(ALGORITHMS["adagrad"])
AdamAtan2 = make_optimizer(ALGORITHMS["adam_atan2"])

__all__ = [
    "ALGORITHMS",
    "BIAS_CORRECTIONS",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamAtan2",
    "AdamW",
    "Algorithm",
    "Population",
    "RMSprop",
    "Recipe",
    "State",
    "StepOptimizer",
    "algorithms",
    "backends",
    "bits",
    "fingerprint",
    "flags",
    "functional",
    "get_algorithm",
    "interpreter",
    "launch",
    "make_optimizer",
    "register",
    "resolve_backend",
    "step_kernel",
    "tables",
]
