"""What a command says it has cost."""

import re

from lossscale.support.usage import Stopwatch


def test_a_line_names_time_processor_time_and_memory() -> None:
    held = bytearray(64 << 20)
    line = Stopwatch().line()
    found = re.match(r"(\d+) s in all, (\d+) s of processor time; memory: at most (\d+\.\d\d) GB in this process", line)
    assert found is not None, line
    assert int(found[1]) == 0 and float(found[3]) >= len(held) / 1e9
