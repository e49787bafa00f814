"""Whole populations: their bits on this device, the chain from torch.optim to the trainer, and how fast peers are."""
