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
from kernels.optim import planning
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.two_tensor import TwoTensor

# Each way of looking at what may have changed has its run.
if sys.argv[1] != "simd":
    planning.compiled_look = lambda: None
N = 64
def freed(n=N):
    t = torch.ones(n); t.untyped_storage().resize_(0); return t
def shrunk(n=N, size=16):
    t = torch.ones(n); t.untyped_storage().resize_(size); return t
def fake(n=N):
    with FakeTensorMode(): return torch.ones(n)
def inference():
    with torch.inference_mode(): return torch.ones(N)
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
    "mkldnn": lambda: torch.ones(N).to_mkldnn(),
    "zero": lambda: torch._efficientzerotensor((N,)),
    "functional": lambda: torch._to_functional_tensor(torch.ones(N)),
    "negated run": lambda: torch._neg_view(torch.ones(N)),
    "float8": lambda: torch.ones(N).to(torch.float8_e4m3fn),
    "inference": inference,
    "good": lambda: torch.ones(N),
}
# One element, for scales, flags and counts.
ONE = {
    "two": lambda: TwoTensor(torch.ones(1), torch.ones(1)),
    "meta": lambda: torch.ones(1, device="meta"),
    "fake": lambda: fake(1),
    "sparse": lambda: torch.ones(1).to_sparse(),
    "csr": lambda: torch.ones(1, 1).to_sparse_csr(),
    "mkldnn": lambda: torch.ones(1).to_mkldnn(),
    "zero": lambda: torch._efficientzerotensor((1,)),
    "functional": lambda: torch._to_functional_tensor(torch.ones(1)),
    "negated": lambda: torch._neg_view(torch.ones(1)),
    "freed": lambda: freed(1),
    "shrunk": lambda: shrunk(1, 2),
    "bool": lambda: torch.ones(1, dtype=torch.bool),
    "float8": lambda: torch.ones(1).to(torch.float8_e4m3fn),
    "complex": lambda: torch.ones(1, dtype=torch.complex64),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(1)]),
    "many": lambda: torch.ones(N),
    "none": lambda: torch.ones(0),
    "string": lambda: "1",
    "good": lambda: torch.ones(1),
    "good scalar": lambda: torch.ones(()),
    "good double": lambda: torch.ones(1).double(),
    "good half": lambda: torch.ones(1).half(),
    "good number": lambda: 1.0,
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
    given = {"param": torch.ones(N), "grad": torch.ones(N), "state": torch.zeros(N), "copies": torch.ones(N).half()}
    given[place] = make()
    lists = [[given[name]] for name in ("param", "grad", "state")]
    copies = [given["copies"]] if place == "copies" else None
    functional.adamw_(*lists, [torch.zeros(N)], step=1, backend=sys.argv[1], copies=copies)

def optimizer_number(place, make, late):
    p = torch.nn.Parameter(torch.ones(N)); p.grad = torch.ones(N)
    # Flags are looked at on the host, or left to the kernel.
    o = kernels.AdamW([p], backend=sys.argv[1], fused=late)
    if late: o.step()
    if place == "step": o.step(); o.state[p]["step"] = make()
    else: setattr(o, place, make())
    before = p.detach().clone()
    try: o.step()
    except Exception:
        assert torch.equal(p.detach(), before), "stepped and refused"
        raise

def functions_number(place, make, late):
    p = torch.ones(N)
    lists = [[t] for t in (p, torch.ones(N), torch.zeros(N), torch.zeros(N))]
    recipe = "fused" if late else None
    try: functional.adamw_(*lists, backend=sys.argv[1], recipe=recipe, **{"step": 1, place: make()})
    except Exception:
        assert torch.equal(p, torch.ones(N)), "stepped and refused"
        raise

def population_number(place, make, late):
    hyper, p = kernels.get_algorithm("adam").hyperparameters(), torch.ones(2, N)
    if place == "step":
        kernels.Population("adam", [hyper, hyper], p, backend=sys.argv[1], steps=make()).step(torch.ones(2, N))
    else:
        population = kernels.Population("adam", [hyper, hyper], p, backend=sys.argv[1])
        population.step(torch.ones(2, N), **{place: make()})

def population(place, make, late):
    given = {"param": torch.ones(2, N), "grad": torch.ones(2, N)}
    # The tensors above have one row; a population's have two.
    given[place] = torch.ones(2, N) if make is KINDS["good"] else make()
    hyper = kernels.get_algorithm("adam").hyperparameters()
    kernels.Population("adam", [hyper, hyper], given["param"], backend=sys.argv[1]).step(given["grad"])

# How torch and the package's own checks refuse; that torch has no operators for some kinds is a RuntimeError too.
expected = (TypeError, ValueError, RuntimeError, AttributeError)
TENSORS, NUMBERS = ("param", "grad", "state"), ("grad_scale", "found_inf", "step")
for entry, places, kinds, lates in (
    (optimizer, TENSORS, KINDS, (False, True)),
    (functions, (*TENSORS, "copies"), KINDS, (False,)),
    (population, TENSORS[:2], KINDS, (False,)),
    (optimizer_number, NUMBERS, ONE, (False, True)),
    (functions_number, NUMBERS, ONE, (False, True)),
    (population_number, NUMBERS, ONE, (False,)),
):
    for place in places:
        for name, make in kinds.items():
            for late in lates:
                print(entry.__name__, place, name.replace(" ", "-"), late, end=" ", flush=True)
                try:
                    entry(place, make, late)
                    print("stepped")
                except expected as error:
                    print("refused:", type(error).__name__, str(error)[:90].replace("\\n", " "))
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
    never |= {"negated", "negated-run", "mkldnn", "zero", "functional", "float8"}
    for (entry, place, name, late), verdict in verdicts.items():
        if name.startswith("good"):
            assert verdict == "stepped", (entry, place, name, late, verdict)
        elif entry.endswith("_number"):
            # A boolean is as good a flag of a population as 1.
            taken = (entry, place, name) == ("population_number", "found_inf", "bool")
            named = f"state '{place}'" if (entry, place) == ("optimizer_number", "step") else place
            wanted = "stepped" if taken else "refused"
            assert verdict.startswith(wanted) and (taken or named in verdict), (entry, place, name, late, verdict)
        elif name in never or (name == "inference" and place != "grad"):
            assert verdict.startswith("refused"), (entry, place, name, late, verdict)
            its_own = any(word in verdict for word in (place, "torch itself", "storage", "gradients"))
            assert its_own and "INTERNAL" not in verdict and "Unimplemented" not in verdict, (
                entry,
                place,
                name,
                verdict,
            )
