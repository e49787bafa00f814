"""`python -m bench list`."""

from __future__ import annotations

from lossscale.support import cli
from lossscale.support.output import Output


def list_command(device: cli.DeviceOption = "auto", json: cli.JsonOption = False) -> None:
    """Providers (and why one is missing), backends, the compiled look, workloads, and the results that are kept.

    Args:
        device: where they would run.
        json: print one JSON document.
    """
    chosen = cli.resolve_device(device)
    import torch

    from kernels import available_backends, compiled_look_missing, resolve_backend

    from .providers import registry
    from .store.kept import kept_results
    from .timing.workloads import cpu_steps, cuda_steps

    with Output(as_json=json) as output:
        found = registry.reasons(torch.device(chosen))
        rows = [{"provider": name, "here": reason or "yes"} for name, reason in found.items()]
        workloads = [
            f"{w.optimizer} {w.dtype} {w.tensors.name}" for w in (cuda_steps() if chosen == "cuda" else cpu_steps())
        ]
        results = kept_results()
        backends = {"auto": resolve_backend("auto", torch.device(chosen)), **available_backends()}
        look = compiled_look_missing()
        output.table(
            rows,
            title=f"Providers on {chosen}",
            backends=backends,
            compiled_look=look or "yes",
            workloads=workloads,
            results=results,
        )
        output.note()
        output.note(f"Backend auto is {backends.pop('auto')} here; " + ", ".join(map(_said, backends.items())))
        output.note(f"Tensors are looked at {f'in Python: {look}' if look else 'by compiled code'}")
        output.note(f"{len(workloads)} timing workloads, such as {workloads[0]}")
        output.note("Kept results: " + (", ".join(results) or "none"))


def _said(backend: tuple[str, str]) -> str:
    """A backend's name, and in brackets why it cannot run in this process."""
    name, reason = backend
    return f"{name} ({reason})" if reason else name
