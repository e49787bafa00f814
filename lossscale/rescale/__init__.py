"""``python -m lossscale rescale``: what to set, and how a checkpoint goes on, when the loss was multiplied by s."""
