"""A conformance run as JUnit XML."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from ..rows import Row
from .document import sentence


def junit_xml(rows: Sequence[Row], broken: Sequence[Row]) -> str:
    """JUnit's XML: one suite per provider, one case per row."""
    failing = {id(row) for row in broken}
    root = ElementTree.Element("testsuites", name="bench conform")
    by_provider: dict[str, list[Row]] = {}
    for row in rows:
        by_provider.setdefault(row.provider, []).append(row)
    for provider, found in by_provider.items():
        bad = [row for row in found if id(row) in failing]
        errors = sum(row.outcome.broke for row in bad)
        skipped = [row for row in found if not (row.outcome.compared or row.outcome.broke)]
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=provider,
            tests=str(len(found)),
            failures=str(len(bad) - errors),
            errors=str(errors),
            skipped=str(len(skipped)),
            time=f"{sum(row.time_s for row in found):.3f}",
        )
        for row in found:
            case = ElementTree.SubElement(
                suite,
                "testcase",
                classname=f"{provider}.{row.optimizer}.{row.dtype}",
                name=f"{row.options} {row.shape}/{row.values} {row.steps} steps against {row.against}",
                time=f"{row.time_s:.3f}",
            )
            if id(row) in failing:
                kind = "error" if row.outcome.broke else "failure"
                ElementTree.SubElement(case, kind, message=_clean(sentence(row))).text = _clean(row.detail)
            elif row in skipped:
                ElementTree.SubElement(case, "skipped", message=_clean(row.detail))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _clean(text: str) -> str:
    """Without the control characters that XML cannot hold."""
    return "".join(c for c in text if c in "\t\n" or ord(c) >= 32)
