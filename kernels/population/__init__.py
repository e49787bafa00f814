"""Many models at once, each with its own hyperparameters: single steps, and whole training runs of small networks."""

from .network import NETWORKS, Head, Network, get_network
from .policy import POLICIES, Policy
from .step import Population
from .trainer import Trainer

__all__ = ["NETWORKS", "POLICIES", "Head", "Network", "Policy", "Population", "Trainer", "get_network"]
