"""Headless Chromium as a test uses it: a page is opened, and says what a reader would have seen."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

_LISTEN = """<script>
window.seen = [];
addEventListener("error", event => seen.push(String(event.message)));
addEventListener("unhandledrejection", event => seen.push(String(event.reason)));
const complain = console.error;
console.error = (...words) => { seen.push(words.join(" ")); complain(...words); };
</script>"""
"""Stands before everything else of the page."""

_TELL = """<script>
function place(chart) {
  const at = chart.data.findIndex(trace => (trace.hovertemplate || trace.hovertext) && (trace.x || trace.z));
  if (at < 0) return null;
  const trace = chart.data[at];
  // Of a picture of pixels one that no line touches.
  const off = (start, step) => Number(start) + 3 * Number(step);
  if (trace.z) return {xval: trace.x ? 0 : off(trace.x0, trace.dx), yval: trace.y ? 0 : off(trace.y0, trace.dy)};
  return [{curveNumber: at, pointNumber: 0}];
}
addEventListener("load", () => setTimeout(() => {
  const charts = [...document.querySelectorAll(".plotly-graph-div")].map(chart => {
    let said = "";
    try {
      const where = place(chart);
      if (where) Plotly.Fx.hover(chart, where, Object.keys(chart._fullLayout._plots)[0]);
      said = [...chart.querySelectorAll(".hovertext")].map(text => text.textContent).join(" ");
    } catch (error) { seen.push(chart.id + ": " + error); }
    const drawn = chart.querySelectorAll(".main-svg").length;
    return {id: chart.id, drawn, hover: said, width: chart.clientWidth};
  });
  const told = document.createElement("pre");
  told.id = "told";
  const root = document.documentElement;
  told.textContent = JSON.stringify({charts, seen, width: root.clientWidth, needs: root.scrollWidth});
  document.body.replaceChildren(told);
}, 500));
</script>"""
"""Stands after everything: what was drawn, what a pointer on each chart's first number shows, complaints, widths."""


def open_page(page: Path, folder: Path, *, width: int) -> dict[str, Any]:
    """What a page says of itself in a window so wide.

    Args:
        page: its file.
        folder: where its copy may be written, which tells.
        width: in pixels.

    Returns:
        ``charts`` (id, drawn, hover, width), ``seen`` (errors), ``width``, ``needs`` (its own width).
    """
    html = page.read_text(encoding="utf-8")
    head, found, rest = html.partition("<head>")
    body, end, after = rest.rpartition("</body>")
    assert found and end, "no page"
    copy = folder / f"{page.stem}-{width}.html"
    copy.write_text(head + found + _LISTEN + body + _TELL + end + after, encoding="utf-8")
    # A window of Chromium is never narrower than 500 pixels, a frame is.
    frame = folder / f"{copy.stem}-frame.html"
    frame.write_text(
        f'<iframe id="f" src="{copy.name}" style="width:{width}px;height:900px;border:0"></iframe><pre id="out"></pre>'
        "<script>const wait = setInterval(() => {"
        'const told = document.getElementById("f").contentDocument?.getElementById("told");'
        'if (told) { clearInterval(wait); document.getElementById("out").textContent = told.textContent; }'
        "}, 100);</script>",
        encoding="utf-8",
    )
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    command += [f"--user-data-dir={folder / 'profile'}", "--window-size=1400,1000", "--virtual-time-budget=60000"]
    command += ["--dump-dom", frame.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    out = re.search(r'<pre id="out">(.*?)</pre>', done.stdout, re.DOTALL)
    assert out is not None and out[1], f"the page never told: {done.stderr[-500:]}"
    told: dict[str, Any] = json.loads(unescape(out[1]))
    return told
