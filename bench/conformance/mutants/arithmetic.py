"""Faults in the arithmetic of the update rules."""

from __future__ import annotations

from .mutant import Edit, Mutant


def _adam(
    name: str, fault: str, *edits: tuple[str, str, str], optimizer: str = "Adam", recipe: str = "foreach"
) -> Mutant:
    made = tuple(Edit(inside=f"adam.{inside}", old=old, new=new) for inside, old, new in edits)
    return Mutant(name=name, fault=fault, optimizer=optimizer, recipe=recipe, edits=made)


def _ops(name: str, fault: str, inside: str, old: str, new: str, *, optimizer: str, recipe: str = "foreach") -> Mutant:
    edit = Edit(inside=f"arithmetic.{inside}", old=old, new=new)
    return Mutant(name=name, fault=fault, optimizer=optimizer, recipe=recipe, edits=(edit,))


def _sgd(name: str, fault: str, old: str, new: str, *, inside: str = "_sgd_eager", recipe: str = "foreach") -> Mutant:
    edit = Edit(inside=f"sgd.{inside}", old=old, new=new)
    return Mutant(name=name, fault=fault, optimizer="SGD", recipe=recipe, edits=(edit,))


_CORRECT = """d = ops.div_by_scalar(d, root, (FLAGS & REUSED) or tl.float32 != DTYPE, FLAGS & OPTIMISTIC)
    d = ops.round_to(d, DTYPE)"""
_ADD_EPS = "d = ops.add_scalar(d, ops.scalar(row, 4), DTYPE, FLAGS & OPTIMISTIC)"
_RETURN = "return ops.addcdiv(p, m, d, ops.scalar(row, 6), DTYPE, FLAGS & OPTIMISTIC), m, v, vmax"

ARITHMETIC: tuple[Mutant, ...] = (
    _sgd("sign", "the step goes uphill", "add_scaled(p, g, minus_lr", "add_scaled(p, g, ops.negate(minus_lr)"),
    _adam(
        "decay-after",
        "decoupled decay shrinks the stepped parameter instead of the old one",
        ("_adam_moments", "p = ops.mul(p, decay, DTYPE)", "p = p"),
        (
            "_adam_foreach",
            _RETURN,
            "p = ops.addcdiv(p, m, d, ops.scalar(row, 6), DTYPE, FLAGS & OPTIMISTIC)\n"
            "    if FLAGS & DECOUPLED:\n"
            "        p = ops.mul(p, ops.scalar(row, 0), DTYPE)\n"
            "    return p, m, v, vmax",
        ),
        optimizer="AdamW",
    ),
    _adam(
        "decay-twice",
        "decoupled decay is applied twice",
        (
            "_adam_moments",
            "p = ops.mul(p, decay, DTYPE)",
            "p = ops.mul(ops.mul(p, decay, DTYPE), decay, DTYPE)",
        ),
        optimizer="AdamW",
    ),
    _adam(
        "decay-ignored",
        "decoupled decay is not applied",
        ("_adam_moments", "p = ops.mul(p, decay, DTYPE)", "p = p"),
        optimizer="AdamW",
    ),
    _adam(
        "decay-without-lr",
        "decoupled decay is not multiplied by lr",
        ("_decay", "1 - hyper.lr * hyper.weight_decay", "1 - hyper.weight_decay"),
        optimizer="AdamW",
    ),
    _adam(
        "l2-for-decoupled",
        "AdamW's decay enters the gradient",
        ("_decay", "return 1 - hyper.lr", "return hyper.weight_decay if True else 1 - hyper.lr"),
        ("_flags", "decoupled=hyper.weight_decay != 0 and hyper.decoupled_weight_decay", "decoupled=False"),
        optimizer="AdamW",
    ),
    _sgd(
        "decay-before-maximize",
        "the sign is flipped after L2 decay was added",
        "if FLAGS & MAXIMIZE:\n        g = ops.negate(g)\n    if FLAGS & DECAY:\n"
        "        g = ops.add_scaled(g, p, weight_decay, GRAD)\n",
        "if FLAGS & DECAY:\n        g = ops.add_scaled(g, p, weight_decay, GRAD)\n"
        "    if FLAGS & MAXIMIZE:\n        g = ops.negate(g)\n",
    ),
    _adam(
        "eps-inside-root",
        "eps is added under the root",
        (
            "_adam_moments",
            "d = ops.sqrt(v, DTYPE, FLAGS & OPTIMISTIC)",
            "d = ops.sqrt(ops.add_scalar(v, ops.scalar(row, 4), DTYPE), DTYPE)",
        ),
        ("_adam_foreach", _ADD_EPS, "d = d"),
    ),
    _adam(
        "eps-before-correction",
        "eps is added before the bias correction",
        ("_adam_foreach", f"{_CORRECT}\n    {_ADD_EPS}", f"{_ADD_EPS}\n    {_CORRECT}"),
    ),
    _adam(
        "correction-missing",
        "the first moment is not corrected for its bias",
        ("_foreach_row", "hyper.lr / (1 - power(beta1, step))", "hyper.lr"),
    ),
    _adam(
        "corrections-swapped",
        "each moment gets the other's bias correction",
        ("_foreach_row", "hyper.lr / (1 - power(beta1, step))", "hyper.lr / (1 - power(beta2, step))"),
        ("_foreach_row", "square_root(1 - power(beta2, step))", "square_root(1 - power(beta1, step))"),
    ),
    _adam(
        "correction-one-step-late",
        "the bias corrections count from 0",
        ("_foreach_row", "hyper.lr / (1 - power(beta1, step))", "hyper.lr / (1 - power(beta1, max(1.0, step - 1)))"),
    ),
    _adam(
        "float32-betas",
        "betas are narrowed to float32 before 1 - beta",
        (
            "_foreach_row",
            "beta1, beta2 = hyper.betas",
            "beta1, beta2 = (torch.tensor(b, dtype=torch.float32).item() for b in hyper.betas)",
        ),
    ),
    _adam(
        "one-minus-beta-in-float32",
        "1 - beta2 is formed in float32",
        (
            "_foreach_row",
            "beta2, 1 - beta2, hyper.eps",
            "beta2, (1 - torch.tensor(beta2, dtype=torch.float32)).item(), hyper.eps",
        ),
    ),
    _adam(
        "amsgrad-after-correction",
        "amsgrad keeps the largest corrected second moment",
        (
            "_adam_moments",
            "vmax = ops.maximum(vmax, v)",
            "vmax = ops.maximum(vmax, ops.div(v, ops.scalar(row, 5) * ops.scalar(row, 5), DTYPE))",
        ),
    ),
    _adam(
        "amsgrad-unused",
        "the largest second moment is kept but the current one is used",
        (
            "_adam_moments",
            "d = ops.sqrt(vmax, DTYPE, FLAGS & OPTIMISTIC)",
            "d = ops.sqrt(v, DTYPE, FLAGS & OPTIMISTIC)",
        ),
    ),
    _sgd(
        "nesterov-off",
        "nesterov has no effect",
        "if FLAGS & NESTEROV:\n            g = ops.add_scaled(g, buf, momentum, GRAD)",
        "if FLAGS & NESTEROV:\n            g = buf",
    ),
    _sgd(
        "dampened-first-step",
        "dampening is applied to the first momentum buffer too",
        "tl.where(first, g, ops.add_scaled(ops.mul(buf, momentum, STATE), g, one_minus_dampening, STATE))",
        "ops.add_scaled(ops.mul(buf, momentum, STATE), g, one_minus_dampening, STATE)",
    ),
    _sgd(
        "momentum-contracted",
        "buf·momentum is not rounded before the gradient is added",
        "ops.add_scaled(ops.mul(buf, momentum, STATE), g, one_minus_dampening, STATE)",
        "ops.add_scaled(g * one_minus_dampening, buf, momentum, STATE)",
    ),
    _sgd(
        "dampening-in-double",
        "fused SGD forms 1 - dampening in double",
        "return (hyper.weight_decay, hyper.momentum, hyper.dampening, hyper.lr, float(first))",
        "return (hyper.weight_decay, hyper.momentum, 1 - (1 - hyper.dampening) * (1 + 2e-7), hyper.lr, float(first))",
        inside="_fused_row",
        recipe="fused",
    ),
    _sgd(
        "scaled-lanes-contracted",
        "fused SGD under a grad_scale uses an fma in every lane",
        "new_p = tl.where(lane < 3, p - g * lr, new_p)",
        "new_p = new_p",
        inside="_sgd_fused",
        recipe="fused",
    ),
    _ops(
        "sum-uncontracted",
        "x + alpha·y is rounded twice",
        "add_scaled",
        "tl.fma(other, alpha, x)",
        "other * alpha + x",
        optimizer="SGD",
    ),
    _ops(
        "quotient-uncontracted",
        "x + value·(a/b) is rounded three times",
        "addcdiv",
        "tl.fma(quotient(a, b, MODE), value, x)",
        "tl.div_rn(a, b) * value + x",
        optimizer="Adam",
    ),
    _ops(
        "value-times-numerator",
        "value multiplies the numerator before the division",
        "addcdiv",
        "tl.fma(quotient(a, b, MODE), value, x)",
        "tl.div_rn(a * value, b) + x",
        optimizer="RMSprop",
    ),
    _ops(
        "lerp-uncontracted",
        "x + weight·(end - x) is rounded twice",
        "lerp",
        "tl.fma(difference, weight, x)",
        "difference * weight + x",
        optimizer="Adam",
    ),
    _ops(
        "lerp-from-start-only",
        "lerp never starts from its end",
        "lerp",
        "tl.where(tl.abs(weight) < 0.5, from_start, from_end)",
        "from_start",
        optimizer="Adam",
    ),
    _ops(
        "square-contracted",
        "the gradient's square is not rounded before it is weighted",
        "addcmul",
        "tl.where(value == 1.0, tl.fma(a, b, x), tl.fma(a * b, value, x))",
        "tl.where(value == 1.0, tl.fma(a, b, x), tl.fma(a, b * value, x))",
        optimizer="RMSprop",
    ),
    _ops(
        "value-1-rounded",
        "addcmul with value 1 rounds the product first",
        "addcmul",
        "tl.where(value == 1.0, tl.fma(a, b, x), tl.fma(a * b, value, x))",
        "tl.fma(a * b, value, x)",
        optimizer="Adagrad",
    ),
    _ops(
        "approximate-division",
        "a quotient is a product with the reciprocal",
        "addcdiv",
        "quotient(a, b, MODE)",
        "a * tl.div_rn(b * 0.0 + 1.0, b)",
        optimizer="Adam",
    ),
    _ops(
        "approximate-root",
        "a root is x times the reciprocal root",
        "sqrt",
        "tl.sqrt_rn(x)",
        "tl.where(x == 0.0, x, x * tl.div_rn(x * 0.0 + 1.0, tl.sqrt_rn(x)))",
        optimizer="RMSprop",
    ),
    _ops(
        "flush-to-zero",
        "subnormal results become zero",
        "round_to",
        "if dtype == tl.float32:\n        return x",
        "if dtype == tl.float32:\n        return tl.where(tl.abs(x) < 1.1754943508222875e-38, x * 0.0, x)",
        optimizer="Adam",
    ),
    _ops(
        "rounding-missing",
        "low-precision results stay in float32 until they are stored",
        "round_to",
        "return x.to(dtype).to(tl.float32)",
        "return x",
        optimizer="Adam",
    ),
    _ops(
        "rounding-truncates",
        "low-precision results are cut off instead of rounded",
        "round_to",
        "return x.to(dtype).to(tl.float32)",
        "return (x.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True).to(dtype).to(tl.float32)",
        optimizer="SGD",
    ),
    _adam(
        "moments-rounded-twice",
        "fused Adam goes on with the stored, rounded moments",
        ("_adam_fused", "m = _ema_fused(m, g, beta1)", "m = ops.round_to(_ema_fused(m, g, beta1), DTYPE)"),
        recipe="fused",
    ),
    _adam(
        "fused-lerp",
        "fused Adam's moments are averaged with a rounded 1 - beta",
        ("_ema_fused", "tl.fma(ops.negate(beta), x, x)", "x * (1.0 - beta)"),
        recipe="fused",
    ),
    _adam(
        "fused-last-line",
        "fused Adam ends with foreach's fma",
        (
            "_adam_fused",
            "return p - ops.quotient(step_size * m, d, FLAGS & OPTIMISTIC), m, v, vmax",
            "return tl.fma(tl.div_rn(m, d), ops.negate(step_size), p), m, v, vmax",
        ),
        recipe="fused",
    ),
    _adam(
        "l2-lane-ignored",
        "fused Adam's L2 term is contracted in every lane",
        (
            "_adam_fused",
            "tl.where(lane % 4 == 0, p * weight_decay + g, tl.fma(p, weight_decay, g))",
            "tl.fma(p, weight_decay, g)",
        ),
        recipe="fused",
    ),
    _adam(
        "fused-nan-rule",
        "fused amsgrad lets a NaN through, as eager torch does",
        ("_adam_fused", "vmax = tl.where(vmax < v, v, vmax)", "vmax = ops.maximum(vmax, v)"),
        recipe="fused",
    ),
    _adam(
        "true-division-in-for-loop",
        "the for-loop divides where torch multiplies by a reciprocal",
        (
            "_adam_for_loop",
            "ops.mul(d, ops.scalar(row, 5), DTYPE)",
            "ops.div(d, tl.div_rn(ops.scalar(row, 5) * 0.0 + 1.0, ops.scalar(row, 5)), DTYPE)",
        ),
        recipe="for-loop",
    ),
    _ops(
        "nan-dropped",
        "amsgrad's maximum drops a NaN in the new second moment, as a GPU's max instruction does",
        "maximum",
        "(a > b) | (a != a)",
        "(a > b) | (b != b)",
        optimizer="Adam",
    ),
    _ops("minus-zero-lost", "a flipped zero is +0", "negate", "x * -1.0", "0.0 - x", optimizer="SGD"),
    Mutant(
        name="rmsprop-eps-inside",
        fault="RMSprop adds eps under the root, as TensorFlow did",
        optimizer="RMSprop",
        edits=(
            Edit(
                inside="rmsprop._rmsprop",
                old="d = ops.sqrt(v, STATE, FLAGS & OPTIMISTIC)",
                new="d = ops.sqrt(ops.add_scalar(v, eps, STATE), STATE)",
            ),
        ),
    ),
    Mutant(
        name="variance-contracted",
        fault="centered RMSprop subtracts the squared mean without rounding it",
        optimizer="RMSprop",
        edits=(
            Edit(
                inside="rmsprop._rmsprop",
                old="ops.addcmul(v, mean, mean, -1.0, STATE)",
                new="ops.addcmul(v, mean, ops.negate(mean), 1.0, STATE)",
            ),
        ),
    ),
    Mutant(
        name="lr-decay-off-by-one",
        fault="Adagrad's lr_decay counts the current step",
        optimizer="Adagrad",
        edits=(Edit(inside="adagrad._eager_row", old="(step - 1) * hyper", new="step * hyper"),),
    ),
    Mutant(
        name="adagrad-in-float32",
        fault="fused Adagrad adds eps in float32",
        optimizer="Adagrad",
        recipe="fused",
        edits=(
            Edit(
                inside="adagrad._adagrad_fused",
                old="tl.sqrt_rn(total).to(tl.float64) + eps",
                new="(tl.sqrt_rn(total) + eps.to(tl.float32)).to(tl.float64)",
            ),
        ),
    ),
)
