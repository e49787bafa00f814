"""What an optimizer's states say about its step: one definition of each number, for studies, probes and checkpoints.

`rounding` has the spacing of numbers, `steps` the root and the update of an algorithm, `numbers` what is counted over
elements, `margins` how far they stand from a format's borders, `findings` which of that deserves a warning.
"""
