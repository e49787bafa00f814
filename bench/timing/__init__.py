"""How fast steps are: workloads, a clock, interleaved measurements, and the gate that wrong bits do not pass."""
