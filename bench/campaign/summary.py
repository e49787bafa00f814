"""The campaign in at most a hundred lines of Markdown, from its result files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..store.kept import read_json

_STEP_LINES = 30


def lines(out: Path) -> list[str]:
    """Headline lines of whatever result files exist in `out`."""
    found, times = read_json(out / "conform.json"), read_json(out / "timing.json")
    runs = read_json(out / "population.json")
    parts = (
        _conformance(found),
        _steps(times.get("steps", {})),
        _population(runs),
        _study(found.get("study", {})),
        _golden(found),
        _unconfirmed(found),
        _tune(times.get("tune", {})),
        _timing(times),
    )
    return [line for part in parts for line in part]


def _conformance(found: dict[str, Any]) -> list[str]:
    if "conformance" not in found:
        return []
    section = found["conformance"]
    machine = section.get("machine", {})
    head = [
        "## Conformance against torch.optim",
        "",
        f"{machine.get('device_name', '')} torch {machine.get('torch_build', '')}: {section['cases']} cases, "
        f"{section.get('not_run', '?')} not run, {section.get('replaced_workers', 0)} workers replaced.",
        "",
    ]
    return [*head, *section["markdown"], ""]


def _population(runs: dict[str, Any]) -> list[str]:
    if not runs:
        return []
    text = ["## Populations: whole training runs", ""]
    for name, what in (("bits", "runs with the CPU's bits"), ("chain", "replays through torch.optim")):
        rows = runs.get(name, [])
        same = sum(row.get("outcome") == "equal" for row in rows)
        text.append(f"- {what}: {same} of {len(rows)}")
    text += [
        f"- {row['provider']}, {row['engine']}, {row['models']} models: {1e3 * row['us_per_model_step']:.3g} ns a "
        "model-step"
        for row in runs.get("rows", [])
        if row["us_per_model_step"] is not None
    ]
    text += [
        f"- population step [{row['models']}, {row['width']}]: {100 * row['share_of_copy']:.0f}% of a copy"
        for row in runs.get("step", [])
    ]
    text += [f"- failed: {row['item']}" for row in runs.get("errors", [])]
    return [*text, ""]


def _study(found: dict[str, Any]) -> list[str]:
    """The quick study on the device against its CPU pairs."""
    if not found:
        return []
    verdict = f"{found['differing_cells']} differing cells" + (
        f" in {found['differing']}" if found["differing"] else ""
    )
    missing = f", {len(found['missing'])} shards on one side alone" if found["missing"] else ""
    took = ", ".join(f"{side} {seconds:.0f} s" for side, seconds in found["seconds"].items())
    line = f"`{found['command']}`: {found['pairs']} rows in {found['shards']} shards, {verdict}{missing} ({took})."
    return ["## A study, on the device and on the CPU", "", line, ""]


def _tune(found: dict[str, Any]) -> list[str]:
    chosen = found.get("chosen")
    if not chosen:
        return []
    now = "x".join(map(str, found["now"]))
    lost = "" if chosen["now_loss"] is None else f" (at most {100 * chosen['now_loss']:.1f}% below a kernel's best)"
    best = f"{chosen['block']}x{chosen['num_warps']} (at most {100 * chosen['worst_loss']:.1f}%)"
    line = f"Today {now}{lost}; chosen {best}; {len(found['not_run'])} kernels not run."
    return ["## Launch shapes", "", line, ""]


def _golden(found: dict[str, Any]) -> list[str]:
    if "golden" not in found:
        return []
    section, text = found["golden"], ["## Golden vectors", ""]
    replay = section.get("replay", {})
    text.append(
        f"Replay through this torch: {replay.get('identical', 0)} of {replay.get('cases', 0)} recorded cases identical."
    )
    text += [f"- {_brief(row)}" for row in replay.get("different", [])[:4]]
    if "error" in replay:
        text.append(f"- {replay['error'].strip().splitlines()[-1]}")
    powf = section.get("powf", [])
    rows = powf if isinstance(powf, list) else []
    wrong = [row for row in rows if row.get("differing") != 0]
    text.append(f"Powf tables: {len(rows) - len(wrong)} of {len(rows)} checks without a differing step.")
    text += [f"- {row}" for row in wrong[:5]]
    if isinstance(powf, dict):
        text.append(f"- {powf}")
    text.append(f"Recorded: {section.get('recording', {})}"[:300])
    return [*text, ""]


def _brief(row: dict[str, Any]) -> str:
    text = f"case {row['case']} {row['optimizer']} {row['recipe']} {row['dtype']} {row['path']} {row['options']}"
    return f"{text}: {row.get('elements') or row.get('detail')}"[:240]


def _unconfirmed(found: dict[str, Any]) -> list[str]:
    rows = found.get("unconfirmed")
    if not rows:
        return []
    merged: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        verdict = ", ".join(row.get("holds", [])) or _last(row)
        merged.setdefault((row["check"], verdict), []).append(row.get("dtype", ""))
    text = [f"- {check} [{' '.join(dtypes)}]: {verdict}" for (check, verdict), dtypes in merged.items()]
    return ["## Open questions", "", *text[:10], ""]


def _last(row: dict[str, Any]) -> str:
    """What a check without a holding hypothesis has to say, on one line."""
    return " ".join(str(row.get("differing") or row.get("detail") or row.get("outcome")).split())[-160:]


def _steps(found: dict[str, Any]) -> list[str]:
    """One line per workload: whole steps of every provider, synchronised and queued."""
    rows = found.get("rows", [])
    if not rows:
        return []
    cells: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        name = row.get("provider", "").replace("[triton]", "")
        time = f"{row['step_us']:.0f}/{row['queued_us']:.0f}" if row.get("step_us") and row.get("queued_us") else "–"
        cells.setdefault(row["workload"], {}).setdefault(row["optimizer"], []).append(f"{name} {time}")
    text = ["## Whole steps in µs: one at a time, the device waited for / in a row", ""]
    for workload, found_here in list(cells.items())[:_STEP_LINES]:
        parts = (f"{optimizer} {', '.join(times)}" for optimizer, times in found_here.items())
        text.append(f"- {workload}: {'; '.join(parts)}")
    failed = [row for row in rows if row.get("error")]
    last = f": {failed[0]['error'].strip().splitlines()[-1][:160]}" if failed else ""
    return [*text, f"{len(failed)} failed{last}; {len(found.get('not_run', []))} not run.", ""]


def _timing(found: dict[str, Any]) -> list[str]:
    rows = [row for row in found.get("rows", []) if row.get("step_time_ns")]
    if not rows:
        return []
    text = ["## Step timings (GB/s counted from the fewest bytes; share of a copy of as many bytes)", ""]
    rates = (
        f"{one['bytes'] / 2**20:.0f} MiB {one['copy_gb_per_s']:.0f} / {one['read_gb_per_s']:.0f} / "
        f"{one['write_gb_per_s']:.0f} GB/s"
        for one in found.get("ceilings", [])
    )
    if line := ", ".join(rates):
        text.append(f"Copying / reading / writing: {line}")
    cells: dict[tuple[Any, ...], list[str]] = {}
    for row in rows:
        key = (row["optimizer"], row["dtype"], row["tensors"], row["elements"])
        kernel_ns, step_us = row.get("kernel_time_ns"), row["step_time_ns"] / 1e3
        kernel = f"{kernel_ns / 1e3:.0f}" if kernel_ns else "–"
        share = f" {100 * row['share_of_copy']:.0f}%" if row.get("share_of_copy") else ""
        wrong = f" WRONG {row['differing_elements']}" if row.get("differing_elements") else ""
        name = row["provider"].replace("[triton]", "")
        cells.setdefault(key, []).append(f"{name} {kernel}/{step_us:.0f} µs{share}{wrong}")
    text.append("Per line: provider, kernel time / whole step, share of copy.")
    text += [f"- {' '.join(map(str, key))}: {'; '.join(parts)}" for key, parts in list(cells.items())[:14]]
    failed = [row for row in found["rows"] if row.get("error")]
    last = failed[0]["error"].strip().splitlines()[-1][:160] if failed else ""
    text.append(
        f"{len(failed)} variants failed{': ' + last if failed else ''}; {len(found.get('not_run', []))} not run."
    )
    return text
