"""The suite as a pytest class: subclass it, name your optimizer, and every case is a test.

from bench.conformance.testing import OptimizerConformance

class TestMyAdam(OptimizerConformance):
    optimizer_class, optimizer = MyAdam, "Adam"
    quick = False
"""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch

from ..providers.registry import parse_reference
from ..providers.user import OneClass
from .cases import DTYPES, Case
from .drift import measurable
from .execution import Comparing
from .report.document import sentence
from .selection import conform_cases


class OptimizerConformance:
    """Tests of one optimizer class; set the attributes in a subclass.

    Attributes:
        optimizer_class: the class under test, with torch's option names; options it lacks are skipped.
        optimizer: torch's class that it stands for, such as "Adam".
        against: what it claims to equal bit for bit: "torch-foreach", "torch-for-loop", "torch-fused",
            "reference-RECIPE"; or "float64", then `ulp` is the claim. By default torch itself, on a CPU its for-loop.
        ulp: how far a step may be from float64, where that is the claim.
        dtypes: of parameters and gradients.
        device: "cpu" or "cuda".
        quick: fewer layouts and steps. Set it to False in continuous integration: it catches more.
    """

    optimizer_class: ClassVar[Any]
    optimizer: ClassVar[str]
    against: ClassVar[str] = ""
    ulp: ClassVar[int] = 1
    dtypes: ClassVar[tuple[str, ...]] = DTYPES
    device: ClassVar[str] = "cpu"
    quick: ClassVar[bool] = True

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One test per case, named by what it does."""
        if "conformance_case" not in metafunc.fixturenames:
            return
        recipe = "cpu-fused" if (self.against, self.device) == ("torch-fused", "cpu") else "foreach"
        cases = conform_cases(self.optimizer, recipe, dtypes=self.dtypes, quick=self.quick)
        if self.against == "float64":
            cases = [case for case in cases if measurable(case)]
        names = [f"{case.dtype} {case.option_text()} {case.layout} {case.values} x{case.steps}" for case in cases]
        metafunc.parametrize("conformance_case", cases, ids=names)

    def test_conformance(self, conformance_case: Case) -> None:
        """The claim holds in this case."""
        provider = OneClass(made=type(self).optimizer_class)
        reference = parse_reference(self.against or provider.against(torch.device(self.device)))
        allowed = self.ulp if reference is None else None
        compare = Comparing(provider=provider, against=reference, device=self.device, allowed=allowed, claimed=True)
        row = compare(conformance_case)
        if not (row.outcome.compared or row.outcome.broke):
            # Not a verdict on the optimizer: it has no such option, or there is nothing to hold it against.
            pytest.skip(row.detail)
        if row.outcome.failed:
            pytest.fail(sentence(row), pytrace=False)
