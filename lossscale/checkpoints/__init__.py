"""Saved optimizers: files, the state_dict in them, hyperparameters of groups, parameters beside them."""
