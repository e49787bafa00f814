"""Fused Triton optimizer steps, bit-identical to torch.optim: SGD, Adam, AdamW, RMSprop, Adagrad, and Adam-atan2.

The drop-in classes take what torch.optim's take; `functional` has a step as a function; `Population` steps many models
at once; `bits` compares results.
"""

from . import algorithms, backends, bits, functional, launch, population, rounding
from .algorithm import ALGORITHMS, Algorithm, Recipe, State, get_algorithm, register
from .backends import available_backends, interpreter, resolve_backend
from .fingerprint import fingerprint
from .launch import step_kernel, tables
from .optim import StepOptimizer, make_optimizer
from .population import NETWORKS, POLICIES, Network, Policy, Population, Trainer
from .rounding import flags
from .rounding.dtypes import DTYPES
from .rounding.powers import BIAS_CORRECTIONS

SGD = make_optimizer(ALGORITHMS["sgd"])
Adam = make_optimizer(ALGORITHMS["adam"])
AdamW = make_optimizer(ALGORITHMS["adamw"])
RMSprop = make_optimizer(ALGORITHMS["rmsprop"])
Adagrad = make_optimizer(ALGORITHMS["adagrad"])
AdamAtan2 = make_optimizer(ALGORITHMS["adam_atan2"])

__all__ = [
    "ALGORITHMS",
    "BIAS_CORRECTIONS",
    "DTYPES",
    "NETWORKS",
    "POLICIES",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamAtan2",
    "AdamW",
    "Algorithm",
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
    "fingerprint",
    "flags",
    "functional",
    "get_algorithm",
    "interpreter",
    "launch",
    "make_optimizer",
    "population",
    "register",
    "resolve_backend",
    "rounding",
    "step_kernel",
    "tables",
]
