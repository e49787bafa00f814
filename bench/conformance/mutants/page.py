"""The mutants as an HTML page and as JUnit XML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from lossscale.support import html

from .trial import Trial


def mutants_page(trials: Sequence[Trial], document: Mapping[str, Any]) -> str:
    """One self-contained page: every mutant, the case that killed it, the rule line, and who would not have noticed."""
    lines = [
        {
            "mutant": trial.name,
            "fault": trial.fault,
            "line": trial.place,
            "verdict": "holds" if trial.killed_by else "fails",
            "killed by": trial.killed_by,
            "first difference": trial.evidence,
            "cases that show it": f"{trial.killing} of {trial.cases}",
            "let through by": ", ".join(trial.let_through) or "–",
        }
        for trial in trials
    ]
    styles = [
        {"tolerance": style, "mutants let through": count, "of": document["mutants"]}
        for style, count in document["let_through"].items()
    ]
    reasons = [{"fault": name, "why it cannot show": reason} for name, reason in document["unkillable"].items()]
    lead = html.paragraph(
        f"{document['mutants']} copies of our kernels with one fault each: the suite notices {document['killed']}."
    )
    sections = [html.Section(title="Mutants", anchor="mutants", body=html.table(lines))]
    if styles:
        caption = "Replicas of how other suites compare, on the same cases: a mutant is let through if every case is."
        sections.append(
            html.Section(title="Tolerances elsewhere", anchor="tolerances", body=html.table(styles, caption=caption))
        )
    sections.append(html.Section(title="Not counted", anchor="unkillable", body=html.table(reasons)))
    return html.page("Mutants of the step kernels", sections, lead=lead)


def mutants_junit(trials: Sequence[Trial]) -> str:
    """One test case per mutant; a survivor is a failure."""
    survivors = [trial for trial in trials if not trial.killed_by]
    suite = ElementTree.Element(
        "testsuite", name="mutants", tests=str(len(trials)), failures=str(len(survivors)), errors="0", skipped="0"
    )
    for trial in trials:
        case = ElementTree.SubElement(suite, "testcase", classname=f"mutants.{trial.kind}", name=trial.name)
        if not trial.killed_by:
            ElementTree.SubElement(case, "failure", message=f"survived: {trial.fault} ({trial.place})")
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
