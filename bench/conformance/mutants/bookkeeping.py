"""Faults in what surrounds the arithmetic: state, groups, scaling, and the tables of a launch."""

from __future__ import annotations

from .mutant import Edit, Mutant


def _state(
    name: str,
    fault: str,
    inside: str,
    old: str,
    new: str,
    *,
    optimizer: str,
    recipe: str = "foreach",
) -> Mutant:
    edit = Edit(inside=inside, old=old, new=new)
    return Mutant(name=name, fault=fault, kind="state", optimizer=optimizer, recipe=recipe, edits=(edit,))


def _launch(
    name: str,
    fault: str,
    *edits: tuple[str, str, str],
    optimizer: str = "SGD",
    recipe: str = "foreach",
    far: bool = False,
) -> Mutant:
    made = tuple(Edit(inside=inside, old=old, new=new) for inside, old, new in edits)
    return Mutant(name=name, fault=fault, kind="launch", optimizer=optimizer, recipe=recipe, edits=made, far=far)


STATE: tuple[Mutant, ...] = (
    _state(
        "step-advanced-on-skip",
        "a step that overflowed still counts",
        "Plan._store",
        "if found_inf is not None and self.counters is not None:",
        "if False:",
        optimizer="Adam",
        recipe="fused",
    ),
    _state(
        "momentum-aliases-gradient",
        "the first momentum buffer is the gradient's own memory",
        "States.prepare",
        "entry[name] = torch.full_like(",
        "entry[name] = p.grad if p.grad is not None else torch.full_like(",
        optimizer="SGD",
    ),
    _state(
        "state-not-saved",
        "the moments that are stepped are not those in state_dict",
        "States.member",
        "[entry[state.name] if",
        "[entry[state.name].clone() if",
        optimizer="Adam",
    ),
    _state(
        "step-restarts-on-load",
        "after load_state_dict the step counts from 0 again",
        "StepOptimizer.__setstate__",
        "super().__setstate__(state)",
        "super().__setstate__(state)\n"
        "        for kept in self.state.values():\n"
        '            kept["step"] = torch.zeros(())',
        optimizer="Adam",
    ),
    _state(
        "first-step-after-load",
        "the first step after load_state_dict starts the momentum anew",
        "StepOptimizer.__setstate__",
        "super().__setstate__(state)",
        "super().__setstate__(state)\n"
        "        for kept in self.state.values():\n"
        '            kept.pop("momentum_buffer", None)',
        optimizer="SGD",
    ),
    _state(
        "lr-captured",
        "hyperparameters are those of the constructor for ever",
        "StepOptimizer.hyper_of",
        "self.values_of(group)",
        "self.values_of(self.defaults)",
        optimizer="Adam",
    ),
    _state(
        "strides-ignored",
        "a gradient laid out in another order is stepped as if it were not",
        "_assemble_one",
        "if not same_order(member.grad, like):",
        "if False:",
        optimizer="Adam",
    ),
    _state(
        "options-of-the-first-group",
        "every group is stepped with the first group's options",
        "States.member",
        "flags=self._algorithm.flags(hyper)",
        "flags=self._algorithm.flags(self._optimizer.hyper_of(self._optimizer.param_groups[0]))",
        optimizer="Adam",
    ),
    _state(
        "rows-kept",
        "a changed learning rate is not sent to the device",
        "Plan.send_rows",
        "self._sent_for is hypers and not self._rows_count",
        "not self._rows_count",
        optimizer="SGD",
    ),
    Mutant(
        name="initial-accumulator-ignored",
        fault="Adagrad's accumulator always starts from 0",
        kind="state",
        optimizer="Adagrad",
        edits=(
            Edit(
                inside="ADAGRAD",
                old="fill=lambda hyper: float(hyper.initial_accumulator_value)",
                new="fill=lambda hyper: 0.0",
            ),
        ),
    ),
)

_STORE = "tl.store(g_ptr + offset, g.to(GRAD), mask=mask)"
_DIVIDE = "g = tl.div_rn(g, tl.load(grad_scale_ptr))"

LAUNCH: tuple[Mutant, ...] = (
    _launch(
        "no-op",
        "parameters are written back as they were",
        (
            "step_kernel._update",
            "tl.store(p_ptr + offset, p.to(PARAM), mask=mask)",
            "tl.store(p_ptr + offset, tl.load(p_ptr + offset, mask=mask), mask=mask)",
        ),
    ),
    _launch(
        "grad-scale-multiplied",
        "gradients are multiplied by grad_scale",
        ("step_kernel._update", _DIVIDE, "g = g * tl.load(grad_scale_ptr)"),
        optimizer="Adam",
        recipe="fused",
    ),
    _launch(
        "grad-scale-by-reciprocal",
        "gradients are multiplied by 1 / grad_scale where torch divides",
        ("step_kernel._update", _DIVIDE, "g = g * tl.div_rn(tl.full((), 1.0, tl.float32), tl.load(grad_scale_ptr))"),
        optimizer="Adam",
        recipe="fused",
    ),
    _launch(
        "gradient-not-written-back",
        "the unscaled gradient stays in registers",
        ("step_kernel._update", f"{_DIVIDE}\n        {_STORE}", _DIVIDE),
        optimizer="Adam",
        recipe="fused",
    ),
    _launch(
        "found-inf-ignored",
        "a step that overflowed is taken",
        ("step_kernel.step_kernel", "run = tl.load(found_inf_ptr) != 1.0", "run = tl.load(found_inf_ptr) != 2.0"),
        optimizer="Adam",
        recipe="fused",
    ),
    _launch(
        "first-record-for-all",
        "every tensor of a launch is stepped with the first group's scalars",
        ("step_kernel._row", "scalars[other * COLUMNS + column]", "scalars[column]"),
        optimizer="Adam",
    ),
    _launch(
        "scalars-kept",
        "a launch carries the first step's host scalars for ever",
        ("Plan.send_rows", "carried(rows) if", "vars(self).setdefault('_first', carried(rows)) if"),
        optimizer="AdamW",
    ),
    _launch(
        "tail-skipped",
        "the last, partial chunk of each tensor is not stepped",
        ("chunk_table", "counts = -(-numels // block)", "counts = numels // block"),
    ),
    _launch(
        "last-chunk-twice",
        "the last chunk of each tensor is stepped twice",
        ("chunk_table", "counts = -(-numels // block)", "counts = -(-numels // block) + (numels > 0)"),
        (
            "chunk_table",
            "np.arange(tensor.size) - first[tensor]",
            "np.minimum(np.arange(tensor.size) - first[tensor], counts[tensor] - 2)",
        ),
    ),
    _launch(
        "first-chunk-only",
        "only the first chunk of each tensor is stepped",
        ("chunk_table", "np.arange(tensor.size) - first[tensor]", "0 * tensor"),
    ),
    _launch(
        "one-tensor-twice",
        "the last tensor's chunks go to the one before it",
        (
            "chunk_table",
            "np.arange(numels.size, dtype=np.int64)",
            "np.minimum(np.arange(numels.size, dtype=np.int64), max(0, numels.size - 2))",
        ),
    ),
    _launch(
        "empty-tensors-renumber",
        "an empty tensor shifts the numbers of those behind it",
        (
            "chunk_table",
            "tensor = np.repeat(np.arange(numels.size, dtype=np.int64), counts)",
            "counts = counts[counts > 0]\n    tensor = np.repeat(np.arange(counts.size, dtype=np.int64), counts)",
        ),
    ),
    _launch(
        "stale-address",
        "the table keeps the address of the first step's gradients",
        ("Plan.holds", "if grads.moved and", "if False and"),
    ),
    _launch(
        "32-bit-offset",
        "the offset of a chunk overflows at 2^31 elements",
        (
            "step_kernel.step_kernel",
            "start = tl.load(chunks_ptr + 2 * chunk + 1).to(tl.int64) * BLOCK",
            "start = (tl.load(chunks_ptr + 2 * chunk + 1) * BLOCK).to(tl.int64)",
        ),
        far=True,
    ),
    _launch(
        "wrong-group",
        "every tensor gets the first group's lr",
        ("table_of", "host[NUMEL], host[ROW] = numels, row_of", "host[NUMEL], host[ROW] = numels, 0"),
    ),
    _launch(
        "states-swapped",
        "the two moments' addresses change places",
        (
            "Bucket.columns",
            "*(state for state in self.states if state is not None)",
            "*[state for state in self.states if state is not None][::-1]",
        ),
        optimizer="Adam",
    ),
    _launch(
        "mask-off-by-one",
        "the last element of a partial chunk is left out",
        ("step_kernel.step_kernel", "start + offset < numel", "start + offset < numel - 1"),
    ),
    _launch(
        "first-tensor-length",
        "every tensor is taken to be as long as the first",
        ("step_kernel.step_kernel", "numel = tl.load(table_ptr + tensor)", "numel = tl.load(table_ptr)"),
    ),
    _launch(
        "first-tensor-step",
        "every tensor is taken to be at the first one's step",
        ("step_kernel.step_kernel", "step = tl.load(steps_ptr + tensor)", "step = tl.load(steps_ptr)"),
        optimizer="Adam",
        recipe="fused",
    ),
    _launch(
        "lanes-of-the-aligned-path",
        "unaligned tensors are contracted like aligned ones",
        ("step_kernel.step_kernel", "lane_path = (scaled % (widest // 2) + numel % 4).to(tl.int32)", "lane_path = 0"),
        optimizer="Adam",
        recipe="fused",
    ),
)
