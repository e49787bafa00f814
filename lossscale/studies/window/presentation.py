"""How the study shows itself: the answer per number format, the phase diagrams, the causes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from ...report.figures import to_html
from ...report.labels import optimizer_label, raised_powers
from ...report.neutral import verdict_sentence
from ...report.parts import titled
from ...report.told import Told
from ...runs.parts import read_part
from ...runs.summary import read_summary
from ...support.errors import input_errors
from ...support.html import figure, paragraph, table
from . import answers
from .frames import read_frame
from .look import Drawing, drawing

if TYPE_CHECKING:
    import plotly.graph_objects as go

_FEWER_NUMBERS: Final = 4
"""Of so many rows one has its numbers under the pointer, for all optimizers but the first."""

CAPTION: Final = (
    "Columns are powers of two, rows are eps, 16 initialisations a pixel; the colour is the majority's class, the "
    "first that applies of: no reference (the unscaled run is not finite, or less than half of the elements with a "
    "gradient have moved), non-finite, exact (all parameter bits after every step), rounding only (d ≤ φ), under- "
    "or overflow (numbers leave their range that do not without scaling, and float32 states and gradients halve d),"
    " SGD-like (eps decides half of the update or more), eps-biased (with its eps mapped the pair is exact), "
    "unexplained. Paler: fewer inits agree. Lines are predicted from the unscaled run alone."
)


class Window(Told):
    """The presentation of ``window``."""

    question = "From which loss scale on does the optimizer notice?"
    limits = (
        "One network of 49 parameters, 100 steps, lr 0.01 and one cell at 1e-4, torch’s default eps and betas: where "
        "eps and a format’s range lie among the gradients of another network is for `lossscale.Probe` to say.",
        "Only powers of two from 2^-40 to 2^40 are tried, each alone: a border is known to a factor of two, and “none” "
        "is of this grid.",
        "The loss is one number a network, on a fresh sample: its tests over 1,024 pairs resolve a tenth of a standard "
        "deviation, and nothing smaller. Causes are of 256 pairs, pixels of 16.",
        "The floor is a column of the table, cell by cell, and no verdict: with float16 moments the pairs mapped at "
        "s = 3 leave the format’s range, and float32’s floor judges.",
    )

    def sentences(self, run: Path) -> Sequence[str]:
        """The answer per number format, and how the predictions fared; the question is the page's title."""
        frame = read_frame(run / "thresholds.csv")
        said = [answers.sentence(frame, name) for name in answers.FORMATS]
        return [*(text for text in said if text), verdict_sentence(read_summary(run))]

    def headline(self, run: Path) -> str:
        """Every optimizer's answer, number format by number format."""
        frame = read_frame(run / "thresholds.csv")
        return table(_raised(answers.glance(frame)), caption=raised_powers(answers.glance_caption(frame)))

    def answers(self, summary: pd.DataFrame) -> Sequence[str]:
        """None from the summary: they are those of the thresholds' table."""
        del summary
        return ()

    def sections(self, run: Path) -> Iterator[tuple[str, str, str]]:
        """A table per number format, the diagrams, the causes."""
        frame = read_frame(run / "thresholds.csv")
        tables = [
            (name, table(_raised(answers.rows_of(frame, policies))))
            for name, policies in answers.FORMATS.items()
            if frame["policy"].isin(policies).any()
        ]
        legend = "".join(paragraph(raised_powers(text)) for text in answers.LEGEND)
        yield "Per number format: s*", "formats", legend + titled(tables)
        yield "The phase diagram", "diagram", paragraph(CAPTION) + titled(self._diagrams(run))
        rows = _raised(_cause_rows(frame, read_frame(run / "causes.csv")))
        if rows:
            yield "Causes", "causes", table(rows, caption=CAUSES_CAPTION)

    def figures(self, summary: pd.DataFrame, run: Path) -> Iterable[tuple[str, go.Figure, str]]:
        """They stand in the section of their own."""
        del summary, run
        return ()

    def picture(self, run: Path, out: Path) -> None:
        """The phase diagrams of the first optimizer."""
        from .picture import draw

        drawings = _drawings(run)
        first = [drawn for drawn in drawings if drawn.cell.typed == drawings[0].cell.typed]
        with input_errors("RUN", run):
            draw(first, int(read_summary(run)["step"].max()), out)

    def keep(self, run: Path, folder: Path) -> Iterator[Path]:
        """Thresholds, causes, and a sheet of diagrams per optimizer."""
        from .kept import keep

        yield from keep(run, folder, _drawings(run), int(read_summary(run)["step"].max()))

    def _diagrams(self, run: Path) -> Iterator[tuple[str, str]]:
        from .figures import phase_figure

        drawings = _drawings(run)
        for place, drawn in enumerate(drawings):
            every = 1 if drawn.cell.typed == drawings[0].cell.typed else _FEWER_NUMBERS
            html = to_html(phase_figure(drawn, every=every), f"{self.study.name}-phase-{place}", zoomable=True)
            yield (
                f"{optimizer_label(drawn.cell.optimizer, drawn.cell.text)}, {drawn.title}",
                figure(html, _counted(drawn, every)),
            )


CAUSES_CAPTION: Final = (
    "At the first power of two beyond rounding on either side, over the pairs that deviate there: mean Shapley "
    "shares of eps (E), of the range of the moments (V) and of the gradients (G), what is left with all three "
    "repaired, how many pairs have one cause alone, and the mean f, binades above the floor, for every set of "
    "repairs. Where the gradients' format is the parameters', repairing G brings a float32 copy of these with it."
)


def _drawings(run: Path) -> list[Drawing]:
    """Every diagram of the run, in the study's order."""
    from .cells import diagrams
    from .script import diagram_name

    found = []
    for cell in diagrams(quick=False):
        name = diagram_name(cell)
        if (run / "parts" / f"{name}.npz").exists():
            found.append(drawing(cell, read_part(run, name)))
    return found


def _counted(drawn: Drawing, every: int) -> str:
    arrays = drawn.arrays
    pixels, inside = arrays["phase"].size, 100.0 * arrays["drawn"].mean()
    text = (
        f"{pixels:,} pixels, φ = {float(arrays['floor']):.2g}; {inside:.0f} % are in range and drawn from the family "
    )
    text += f"of eps / s, and of {int(arrays['sampled']):,} pairs of a sample of these {int(arrays['sample_differs'])} "
    text += f"differ from it; {100.0 * (arrays['phase'] == 8).mean():.1f} % are unexplained."
    return text + (f" Every pixel is drawn; one row in {every} has its numbers under the pointer." if every > 1 else "")


def _cause_rows(thresholds: pd.DataFrame, causes: pd.DataFrame) -> list[dict[str, Any]]:
    """The causes at the first power beyond the median border, on either side of every cell."""
    rows = []
    keys = answers.KEYS
    borders = thresholds[(thresholds["kind"] == "floor") & (thresholds["inits"] > 0)]
    for border in borders.to_dict("records"):
        at = causes[(causes["at"] == "run") & (causes["power"] == border["q50"])]
        for key in keys:
            at = at[at[key] == border[key]]
        for row in at.to_dict("records"):
            rows.append(
                {
                    "optimizer": optimizer_label(row["optimizer"], row["options"]),
                    **{key: row[key] for key in keys[2:]},
                    "s": answers.power(row["power"]),
                    "pairs": row["pairs"],
                    "that deviate": row["deviating"],
                    **{f"share {cause}": row[f"share_{cause}"] for cause in "EVG"},
                    "unexplained": row["unexplained"],
                    "by E / V / G alone, joint": f"{row['by_E']} / {row['by_V']} / {row['by_G']}, {row['by_joint']}",
                    **{name.replace("f_none", "f"): value for name, value in row.items() if name.startswith("f_")},
                }
            )
    return rows


def _raised(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {name: raised_powers(value) if isinstance(value, str) else value for name, value in row.items()} for row in rows
    ]
