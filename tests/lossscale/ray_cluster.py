"""A Ray cluster of this machine for tests, and commands on it whose tasks wait until the test lets them go on.

No test waits for a time: it waits for what is to happen, up to `LIMIT_S`, which only a fault reaches.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LIMIT_S = 900
ROOT = Path(__file__).resolve().parents[2]

_CLUSTER = """
import os, sys
from ray.cluster_utils import Cluster
small = {"object_store_memory": 100 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
nodes = [cluster.add_node(num_cpus=1, **small) for _ in range(2)]
print(cluster.address, flush=True)
for line in sys.stdin:
    if line == "lose\\n":
        cluster.remove_node(nodes.pop(), allow_graceful=False)
    else:
        os.environ.update(pair.split("=") for pair in line.split()[1:])
        nodes.append(cluster.add_node(num_cpus=1, **small))
    print("done", flush=True)
cluster.shutdown()
"""

COMMAND = """
import sys
from lossscale.runs import cluster

cluster._ANSWER_S = cluster._PROBE_S = 900.0  # a loaded machine is no fault

def train_there(order, cohorts):  # Ray sends the functions of a script by value
    import time
    from pathlib import Path
    from lossscale.runs.cluster_worker import train_there

    def waiting():
        allowed = int(Path(GATE).read_text())
        return len(list(Path(SHARDS).glob("*.parquet"))) >= allowed

    while waiting():
        time.sleep(0.02)
    return train_there(order, cohorts)

GATE, SHARDS, *words = sys.argv[1:]
if GATE:
    cluster.train_there = train_there
"""
"""Its first arguments: a file with the number of shards from which on tasks wait (or nothing), and their folder."""

MAIN = "from lossscale.__main__ import main\nsys.exit(main(words))\n"


def wait_until(happened: Callable[[], object], what: str) -> None:
    """Waits for an event."""
    deadline = time.monotonic() + LIMIT_S
    while not happened():
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.02)


class Cluster:
    """A head without cores and two nodes of one core each, whose processes are known by their environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CLUSTER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=self.environment(),
        )
        self.address = self._line()

    def environment(self) -> dict[str, str]:
        """Of everything that belongs to this cluster."""
        return {
            **os.environ,
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TMPDIR": str(self.folder),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }

    def lose(self) -> None:
        """Kills the youngest node without grace."""
        self._do("lose")

    def add(self, *variables: str) -> None:
        """Adds a node, with these variables in its environment."""
        self._do(" ".join(("add", *variables)))

    def processes(self, name: bytes = b"") -> list[int]:
        """What runs of it and for it, by the beginning of the name."""
        mark, found = f"\0RAY_TMPDIR={self.folder}\0".encode(), []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                environment, title = ((process / file).read_bytes() for file in ("environ", "cmdline"))
                if mark in b"\0" + environment and title.startswith(name):
                    found.append(int(process.name))
        return found

    def close(self) -> None:
        """Ends it, and whatever is left of it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(60)
        while left := self.processes():
            for process in left:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.1)
        self._process.wait()
        self._process.stdout.close()

    def _do(self, what: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        assert self._line() == "done"

    def _line(self) -> str:
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            if line == "done\n" or line[0].isdigit():
                return line.strip()
        raise AssertionError("the cluster ended")


class Command:
    """``lossscale run`` on the cluster.

    Args:
        cluster: where.
        run: its directory.
        typed: further words.
        shards: how many its tasks write before they wait; None where they never do.
        before: words before the interpreter's.
    """

    def __init__(
        self,
        cluster: Cluster,
        run: Path,
        typed: tuple[str, ...],
        *,
        shards: int | None = None,
        before: tuple[str, ...] = (),
    ) -> None:
        self.run, self._gate = run, run.with_name(f"{run.name}.gate")
        if shards is not None:
            self.allow(shards)
        words = ["run", "loss-vs-lr", *typed, "--device", "cpu", "--out", str(run), "--executor", "ray"]
        gate = str(self._gate) if shards is not None else ""
        self.process = subprocess.Popen(
            [
                *before,
                sys.executable,
                "-c",
                COMMAND + MAIN,
                gate,
                str(run / "pairs"),
                *words,
                "--address",
                cluster.address,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=cluster.environment(),
        )

    def allow(self, shards: int) -> None:
        """Lets the tasks go on until there are so many shards."""
        new = self._gate.with_suffix(".new")
        new.write_text(str(shards))
        new.replace(self._gate)

    def wait_for(self, shards: int) -> None:
        """Waits until there are so many shards."""

        def there() -> bool:
            assert self.process.poll() is None, self.process.communicate()
            return len(list((self.run / "pairs").glob("*.parquet"))) >= shards

        wait_until(there, f"{shards} shards")

    def end(self, code: int = 0) -> tuple[str, str]:
        """Waits for its end, and returns its output and errors."""
        output, errors = self.process.communicate(timeout=LIMIT_S)
        assert self.process.returncode == code, output + errors
        return output, errors


@contextmanager
def started(folder: Path) -> Iterator[Cluster]:
    """A cluster, whose files go to the folder: a short path, since Ray's sockets take no long one."""
    cluster = Cluster(folder)
    try:
        yield cluster
    finally:
        cluster.close()
