"""Conformance, timings and static limits of optimizer steps: ours, torch's and other packages'."""

from lossscale.support.neighbours import require_neighbour

# lossscale checks `kernels` when it is imported; this checks that it was our lossscale that did so.
require_neighbour("lossscale")
require_neighbour("kernels")
