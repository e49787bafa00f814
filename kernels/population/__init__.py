"""Many models at once, each with its own hyperparameters: single steps, and whole training runs of small networks."""

from . import train_kernel
from .launches import training_arguments, training_constants, training_options
from .linear import MinibatchLinear
from .network import NETWORKS, Head, Network, get_network
from .operator import optimizer_step
from .policy import POLICIES, Policy
from .step import Population
from .trainer import Trainer

__all__ = [
    "NETWORKS",
    "POLICIES",
    "Head",
    "MinibatchLinear",
    "Network",
    "Policy",
    "Population",
    "Trainer",
    "get_network",
    "optimizer_step",
    "train_kernel",
    "training_arguments",
    "training_constants",
    "training_options",
]
