"""One file an algorithm: hyperparameters, degrees, rules, references, registration. Importing this registers all."""

from . import adagrad, adam, adam_atan2, rmsprop, sgd

__all__ = ["adagrad", "adam", "adam_atan2", "rmsprop", "sgd"]
