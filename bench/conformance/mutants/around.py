"""Faults of what happens around steps: idle parameters, reloads, added groups, closures, empty tensors, order."""

from __future__ import annotations

from .mutant import Edit, Mutant


def _around(name: str, fault: str, *edits: tuple[str, str, str], optimizer: str = "Adam") -> Mutant:
    made = tuple(Edit(inside=inside, old=old, new=new) for inside, old, new in edits)
    return Mutant(name=name, fault=fault, kind="happening", optimizer=optimizer, edits=made)


AROUND: tuple[Mutant, ...] = (
    _around(
        "empty-tail-skips-group",
        "a group whose last tensor is empty is not stepped",
        (
            "make_plans",
            "if p.grad is not None:",
            'if p.grad is not None and group["params"][-1].numel():',
        ),
        optimizer="SGD",
    ),
    _around(
        "group-of-empties-ends-step",
        "groups behind one without elements are not stepped",
        (
            "make_plans",
            "for number, group in enumerate(optimizer.param_groups):",
            "for number, group in enumerate(optimizer.param_groups):\n"
            '        if not any(p.numel() for p in group["params"]):\n'
            "            break",
        ),
        optimizer="SGD",
    ),
    _around(
        "loaded-counts-as-used",
        "a parameter whose first gradient comes after load_state_dict is not at its first update",
        (
            "StepOptimizer.__setstate__",
            "super().__setstate__(state)",
            "super().__setstate__(state)\n        self._used = 1",
        ),
        ("States.prepare", "return first", 'return first and not hasattr(optimizer, "_used")'),
        optimizer="SGD",
    ),
    _around(
        "late-at-the-others-step",
        "a parameter whose first gradient comes late is counted like the others",
        (
            "States.make_counters",
            "self._optimizer.state[p][_STEP] = counter",
            "entries = self._optimizer.state.values()\n"
            "                known = [float(e[_STEP]) for e in entries if e.get(_STEP) is not None]\n"
            "                self._optimizer.state[p][_STEP] = counter.fill_(max(known, default=0.0))",
        ),
    ),
    _around(
        "paused-stepped-again",
        "a parameter without a gradient is stepped with its last one",
        (
            "Known.__init__",
            "self._absent = list(map(operator.is_, self._grads_of(optimizer), repeat(None)))",
            "self._last = self._grads_of(optimizer)\n"
            "        self._absent = list(map(operator.is_, self._last, repeat(None)))",
        ),
        (
            "Known._grads_hold",
            "grads = self._present_grads(optimizer)",
            "pairs = zip(self._grads_of(optimizer), self._last)\n"
            "        self._last = grads = [old if new is None else new for new, old in pairs]",
        ),
    ),
    _around(
        "counters-in-a-row",
        "the counters of the parameters that have gradients are taken to follow one another",
        ("counters._as_slice", " if places == list(range(first, first + count)) else np.array(places)", ""),
    ),
    _around(
        "added-group-unchecked",
        "a group that is added later is stepped with the first one's options",
        (
            "StepOptimizer.add_param_group",
            "super().add_param_group(param_group)",
            "late = self.param_groups[0] if self.state else {}\n"
            '        kept = {k: v for k, v in late.items() if k != "params"}\n'
            "        super().add_param_group({**param_group, **kept})",
        ),
    ),
    _around(
        "closure-without-gradients",
        "the closure runs with gradients off",
        ("StepOptimizer.step", "with torch.enable_grad():", "with torch.no_grad():"),
    ),
    _around(
        "loss-not-returned",
        "step does not return what its closure returned",
        ("StepOptimizer.step", "loss = closure()", "closure()"),
    ),
    _around(
        "values-of-construction",
        "the first step starts from the values that the parameters had when the optimizer was made",
        (
            "StepOptimizer.add_param_group",
            "group = self.param_groups[-1]",
            "group = self.param_groups[-1]\n"
            '        self.__dict__.setdefault("_made", {}).update({p: p.detach().clone() for p in group["params"]})',
        ),
        (
            "States.prepare",
            "if p not in optimizer.state:",
            "if p not in optimizer.state:\n            p.data.copy_(optimizer._made[p])",
        ),
    ),
)
