"""Whatever becomes an address: tensors without memory of their own are refused in every entry, and nothing crashes.

Each entry is tried in a child process: a wrong address would end it by a signal.
"""

import subprocess
import sys
from pathlib import Path

import pytest

_CHILD = """
import sys, warnings
warnings.simplefilter("ignore")
import torch, kernels
from kernels import functional
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.two_tensor import TwoTensor

N = 64
def freed():
    t = torch.ones(N); t.untyped_storage().resize_(0); return t
def shrunk():
    t = torch.ones(N); t.untyped_storage().resize_(16); return t
def fake():
    with FakeTensorMode(): return torch.ones(N)
class Plain(torch.Tensor): pass
KINDS = {
    "two": lambda: TwoTensor(torch.ones(N), torch.ones(N)),
    "meta": lambda: torch.ones(N, device="meta"),
    "fake": fake,
    "sparse": lambda: torch.ones(N).to_sparse(),
    "csr": lambda: torch.ones(8, 8).to_sparse_csr(),
    "quantised": lambda: torch.quantize_per_tensor(torch.ones(N), 0.1, 0, torch.quint8),
    "empty": lambda: torch.ones(0),
    "expanded": lambda: torch.ones(1).expand(N),
    "freed": freed,
    "shrunk": shrunk,
    "double": lambda: torch.ones(N).double(),
    "complex": lambda: torch.ones(N, dtype=torch.complex64),
    "negated": lambda: torch.ones(N, dtype=torch.complex64).conj().imag,
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "subclass": lambda: torch.ones(N).as_subclass(Plain),
    "list": lambda: [1.0] * N,
    "good": lambda: torch.ones(N),
}
def optimizer(place, make, late):
    p = torch.nn.Parameter(torch.ones(N)); p.grad = torch.ones(N)
    o = kernels.AdamW([p], backend=sys.argv[1])
    if late: o.step()
    if place == "grad":
        try: p.grad = make()
        except Exception as error: raise TypeError("torch itself") from error
    elif place == "state":
        if not late: o.step()
        o.state[p]["exp_avg"] = make()
    else:
        try: p.data = make()
        except Exception as error: raise TypeError("torch itself") from error
    o.step()
    return p

def functions(place, make, late):
    given = {"param": torch.ones(N), "grad": torch.ones(N), "state": torch.zeros(N)}
    given[place] = make()
    lists = [[given[name]] for name in ("param", "grad", "state")]
    functional.adamw_(*lists, [torch.zeros(N)], step=1, backend=sys.argv[1])

def population(place, make, late):
    given = {"param": torch.ones(2, N), "grad": torch.ones(2, N)}
    # The tensors above have one row; a population's have two.
    given[place] = torch.ones(2, N) if make is KINDS["good"] else make()
    hyper = kernels.get_algorithm("adam").hyperparameters()
    kernels.Population("adam", [hyper, hyper], given["param"], backend=sys.argv[1]).step(given["grad"])

# How torch and the package's own checks refuse; torch has no operators for some kinds (NotImplementedError).
expected = (TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError)
for entry in (optimizer, functions, population):
    for place in ("param", "grad", "state"):
        if entry is population and place == "state": continue
        for name, make in KINDS.items():
            for late in (False, True) if entry is optimizer else (False,):
                print(entry.__name__, place, name, late, end=" ", flush=True)
                try:
                    entry(place, make, late)
                    print("stepped")
                except expected as error:
                    print("refused:", type(error).__name__, str(error)[:90])
print("the end")
"""


def run(backend: str, environment: dict[str, str]) -> list[str]:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, backend],
        capture_output=True,
        text=True,
        cwd=root,
        env={"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin", **environment},
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and lines[-1] == "the end", (done.returncode, lines[-3:], done.stderr[-800:])
    return lines


@pytest.mark.parametrize("backend", ["reference", "simd", "interpreter"])
def test_no_tensor_crashes_a_step(backend: str) -> None:
    lines = run(backend, {"TRITON_INTERPRET": "1"} if backend == "interpreter" else {})
    verdicts = {tuple(line.split()[:4]): line.split(maxsplit=4)[4] for line in lines[:-1]}
    never = {"two", "meta", "fake", "sparse", "csr", "quantised", "freed", "shrunk", "double", "complex", "nested"}
    for (entry, place, name, late), verdict in verdicts.items():
        if name == "good":
            assert verdict == "stepped", (entry, place, late)
        if name in never | {"negated"}:
            assert verdict.startswith("refused"), (entry, place, name, late, verdict)
