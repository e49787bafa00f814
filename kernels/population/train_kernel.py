"""Whole training runs in one launch: a block's models stay in registers for all steps.

One model is one lane. Its parameters and states are tuples of lanes carried through the loop over steps; memory is
touched at the ends, and in every step for the sample and the optimizer's scalars. `train_step` is all of the
arithmetic; the rest is moving data.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..rounding import arithmetic as ops
from . import network

BLOCK = 32
"""Models per program on a GPU: one warp, one model per thread. Two models per thread spill."""
LAUNCH_OPTIONS = {"num_warps": 1, "enable_fp_fusion": False}
"""Compiler options of `train_kernel`. Without fp fusion ``a * b + c`` stays two roundings."""


@triton.jit
def pack(high, low, DTYPE: tl.constexpr):
    """Two float32 numbers that ``DTYPE``, of 16 bits, holds exactly, in one int32."""
    if tl.bfloat16 == DTYPE:
        above = high.to(tl.int32, bitcast=True)
        below = (low.to(tl.int32, bitcast=True) >> 16) & 0xFFFF
    else:
        above = high.to(DTYPE).to(tl.int16, bitcast=True).to(tl.int32) << 16
        below = low.to(DTYPE).to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF
    return above | below


@triton.jit
def unpack(word, DTYPE: tl.constexpr):
    """The two numbers of `pack`."""
    if tl.bfloat16 == DTYPE:
        high = (word & -65536).to(tl.float32, bitcast=True)
        low = (word << 16).to(tl.float32, bitcast=True)
    else:
        high = (word >> 16).to(tl.int16).to(DTYPE, bitcast=True).to(tl.float32)
        low = word.to(tl.int16).to(DTYPE, bitcast=True).to(tl.float32)
    return high, low


@triton.jit
def train_step(
    p,
    s0,
    s1,
    s2,
    x,
    loss_scale,
    row,
    step,
    powers,
    WIDTHS: tl.constexpr,
    STARTS: tl.constexpr,
    SQUARED: tl.constexpr,
    HEAD: tl.constexpr,
    RULE: tl.constexpr,
    FLAGS: tl.constexpr,
    STATES: tl.constexpr,
    LANES: tl.constexpr,
    COMPUTE: tl.constexpr,
    GRAD: tl.constexpr,
    PARAM: tl.constexpr,
    STATE: tl.constexpr,
    PACKED: tl.constexpr,
):
    """One step of one model per lane: new parameters, states, and the gradients that the rule was given.

    Values are float32 whatever format holds them; each is rounded where a run in that format would have stored it. A
    state that is not kept is an empty tuple; where PACKED, a number of s0 is two states. A gradient is formed where it
    is used, which keeps few of them alive.
    """
    layers: tl.constexpr = len(WIDTHS) - 1
    cast = ()
    for k in tl.static_range(STARTS[layers - 1] + (WIDTHS[layers - 1] + 1) * WIDTHS[layers]):
        cast = cast + (ops.round_to(p[k], COMPUTE),)
    inputs, deltas = network.forward_backward(cast, x, loss_scale, WIDTHS, STARTS, SQUARED, HEAD, COMPUTE)
    q = ()
    g = ()
    n0 = ()
    n1 = ()
    n2 = ()
    for layer in tl.static_range(layers):
        for place in tl.static_range((WIDTHS[layer] + 1) * WIDTHS[layer + 1]):
            grad = network.gradient(inputs, deltas, layer, place, WIDTHS[layer], WIDTHS[layer + 1], COMPUTE)
            grad = ops.round_to(grad, GRAD)
            w = p[STARTS[layer] + place]
            a0 = w
            a1 = w
            a2 = w
            if PACKED:
                a0, a1 = unpack(s0[STARTS[layer] + place], STATE)
            elif STATES & 1:
                a0 = s0[STARTS[layer] + place]
            if (STATES & 2) and not PACKED:
                a1 = s1[STARTS[layer] + place]
            if STATES & 4:
                a2 = s2[STARTS[layer] + place]
            lane = 0
            if LANES == "aligned":
                lane = (STARTS[layer] + place) % 4
            if LANES == "unaligned":
                lane = 4 + (STARTS[layer] + place) // 512 % 4
            w, a0, a1, a2 = RULE(w, grad, a0, a1, a2, row, step, powers, lane, FLAGS, PARAM, PARAM, PARAM)
            g = g + (grad,)
            q = q + (ops.round_to(w, PARAM),)
            if PACKED:
                n0 = n0 + (pack(ops.round_to(a0, STATE), ops.round_to(a1, STATE), STATE),)
            elif STATES & 1:
                n0 = n0 + (ops.round_to(a0, STATE),)
            if (STATES & 2) and not PACKED:
                n1 = n1 + (ops.round_to(a1, STATE),)
            if STATES & 4:
                n2 = n2 + (ops.round_to(a2, STATE),)
    return q, n0, n1, n2, g


@triton.jit
def _take_apart(tile, LOG: tl.constexpr, BLOCK: tl.constexpr):
    """The columns of a tile [BLOCK, 2^LOG], as a tuple of tensors [BLOCK]: halved LOG times."""
    parts = (tile,)
    for level in tl.static_range(LOG):
        halves = ()
        for k in tl.static_range(1 << level):
            low, high = tl.split(tl.permute(tl.reshape(parts[k], (BLOCK, 2, 1 << (LOG - 1 - level))), (0, 2, 1)))
            halves = halves + (low, high)
        parts = halves
    columns = ()
    for k in tl.static_range(1 << LOG):
        columns = columns + (tl.reshape(parts[k], (BLOCK,)),)
    return columns


@triton.jit
def _put_together(columns, USED: tl.constexpr, LOG: tl.constexpr, BLOCK: tl.constexpr):
    """A tile [BLOCK, 2^LOG] of the first USED columns and zeros: `_take_apart` backwards."""
    zero = tl.full((BLOCK, 1), 0.0, tl.float32)
    parts = ()
    for k in tl.static_range(1 << LOG):
        if k < USED:
            parts = parts + (tl.reshape(columns[k], (BLOCK, 1)),)
        else:
            parts = parts + (zero,)
    for level in tl.static_range(LOG):
        united = ()
        for k in tl.static_range(1 << (LOG - 1 - level)):
            both = tl.join(parts[2 * k], parts[2 * k + 1])
            united = united + (tl.reshape(tl.permute(both, (0, 2, 1)), (BLOCK, 2 << level)),)
        parts = united
    return parts[0]


@triton.jit
def _places(model_of_ptr, block, NUMBERS: tl.constexpr, LOG: tl.constexpr, BLOCK: tl.constexpr):
    """Where the numbers of a block's models are in rows of NUMBERS, [BLOCK, 2^LOG], and which are there and its own."""
    # Read anew every time: kept, they would take registers from the models.
    tl.debug_barrier()
    listed = tl.load(model_of_ptr + block * BLOCK + tl.arange(0, BLOCK))
    columns = tl.arange(0, 1 << LOG)[None, :]
    places = listed.to(tl.int64)[:, None] * NUMBERS + columns
    # All places of a model below 0 are below 0: a mask of the models' own would take more registers.
    return places, (places >= 0) & (columns < NUMBERS)


@triton.jit
def _rows(from_ptr, model_of_ptr, block, NUMBERS: tl.constexpr, LOG: tl.constexpr, BLOCK: tl.constexpr):
    """A block's rows as float32, a tuple of NUMBERS tensors [BLOCK]; zeros where a slot has no model of its own."""
    places, inside = _places(model_of_ptr, block, NUMBERS, LOG, BLOCK)
    return _take_apart(tl.load(from_ptr + places, inside, 0.0).to(tl.float32), LOG, BLOCK)[0:NUMBERS]


@triton.jit
def _write(
    to_ptr, columns, proven, zero, model_of_ptr, block, NUMBERS: tl.constexpr, LOG: tl.constexpr, BLOCK: tl.constexpr
):
    """`_rows` backwards, where ``proven``; ``zero`` is 0, which the compiler is not to know."""
    places, inside = _places(model_of_ptr, block, NUMBERS, LOG, BLOCK)
    tile = _put_together(columns, NUMBERS, LOG, BLOCK)
    if to_ptr.dtype.element_ty != tl.float32:
        # Or else it takes the 16 bits from where the last step rounded to them, and keeps both forms in the loop.
        tile = (tile.to(tl.int32, bitcast=True) | zero).to(tl.float32, bitcast=True)
    tl.store(to_ptr + places, tile, inside & proven)


POINTERS = ("params", "s0", "s1", "s2", "grads", "data", "model_of", "scale", "rows", "by_model", "by_both", "row_of",
             "powers", "marks")  # fmt: skip
COUNTS = ("models", "families", "arms", "records", "first_step", "steps")
LEAST = tl.constexpr(2.0**-64)
"""A parameter that an optimistic pass vouches for is at least so large: subnormal quotients do not show beside it."""


@triton.jit(do_not_specialize=list(COUNTS))
def train_kernel(
    params_ptr,
    s0_ptr,
    s1_ptr,
    s2_ptr,
    grads_ptr,
    data_ptr,
    model_of_ptr,
    scale_ptr,
    rows_ptr,
    by_model_ptr,
    by_both_ptr,
    row_of_ptr,
    powers_ptr,
    marks_ptr,
    models,
    families,
    arms,
    records,
    first_step,
    steps,
    WIDTHS: tl.constexpr,
    STARTS: tl.constexpr,
    SQUARED: tl.constexpr,
    HEAD: tl.constexpr,
    RULE: tl.constexpr,
    FLAGS: tl.constexpr,
    STATES: tl.constexpr,
    LANES: tl.constexpr,
    COMPUTE: tl.constexpr,
    GRAD: tl.constexpr,
    PARAM: tl.constexpr,
    STATE: tl.constexpr,
    PACKED: tl.constexpr,
    COLUMNS: tl.constexpr,
    SHARED_ROWS: tl.constexpr,
    DEPENDS: tl.constexpr,
    PLACES: tl.constexpr,
    BY_STEP: tl.constexpr,
    BY_BOTH: tl.constexpr,
    KEEP_GRADS: tl.constexpr,
    PASS: tl.constexpr,
    NUMBERS: tl.constexpr,
    FEATURES: tl.constexpr,
    LOG: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """``steps`` steps of BLOCK models.

    params, s0, s1, s2 ([models, NUMBERS], in the policy's formats): changed in place; states not kept are not read.
    grads ([steps, models, NUMBERS], the parameters' format): written where KEEP_GRADS. data (float32, [steps, families,
    FEATURES]): ``arms`` models after another are a family. model_of (int32, [slots]): the model of a slot, or -1 - m
    where it computes beside model m, to fill a block, and nobody wants to know what. scale (float32, [models]). row_of
    (int32, [models]), the same in a block where SHARED_ROWS.

    rows (float64, [steps, records, COLUMNS]), or what DEPENDS says of each column: in rows [steps, ...] ("by_step"), in
    by_model [..., records] or in by_both [steps, ..., records], at its place of PLACES; BY_STEP and BY_BOTH count the
    first and the last kind.

    marks (int32, [blocks]): PASS "first" is an optimistic pass, which writes 1 for a block that it cannot vouch for and
    leaves that as it was, and 0 for the others. "marked" trains the blocks whose mark is not 0.

    A row padded to a power of two, loaded as one tile and taken apart, is one memory operation instead of NUMBERS: the
    compiler's time grows with memory operations times all operations.
    """
    block = tl.program_id(0)
    if PASS == "marked":  # noqa: SIM102 - a constant, which decides what is compiled
        if tl.load(marks_ptr + block) == 0:
            return
    listed = tl.load(model_of_ptr + block * BLOCK + tl.arange(0, BLOCK))
    model = tl.where(listed >= 0, listed, -1 - listed)
    loss_scale = tl.load(scale_ptr + model)
    record = tl.load(row_of_ptr + model)
    p = _rows(params_ptr, model_of_ptr, block, NUMBERS, LOG, BLOCK)
    s0 = ()
    s1 = ()
    s2 = ()
    if STATES & 1:
        s0 = _rows(s0_ptr, model_of_ptr, block, NUMBERS, LOG, BLOCK)
    if STATES & 2:
        s1 = _rows(s1_ptr, model_of_ptr, block, NUMBERS, LOG, BLOCK)
    if STATES & 4:
        s2 = _rows(s2_ptr, model_of_ptr, block, NUMBERS, LOG, BLOCK)
    if PACKED:
        both = ()
        for k in tl.static_range(NUMBERS):
            both = both + (pack(s0[k], s1[k], STATE),)
        s0 = both
        s1 = ()
    sample = data_ptr + (model // arms) * FEATURES
    if SHARED_ROWS:
        rows_ptr += tl.max(record, 0) * COLUMNS
    elif len(DEPENDS) == 0:
        rows_ptr += record * COLUMNS
    least = tl.full((BLOCK,), float("inf"), tl.float32)
    for t in range(steps):
        x = ()
        for k in tl.static_range(FEATURES):
            x = x + (tl.load(sample + k),)
        step = (first_step + t).to(tl.float32)
        row = rows_ptr
        if len(DEPENDS) != 0:
            row = ()
            for k in tl.static_range(len(DEPENDS)):
                if DEPENDS[k] == "by_step":
                    row = row + (rows_ptr + PLACES[k],)
                elif DEPENDS[k] == "by_model":
                    row = row + (by_model_ptr + PLACES[k] * records + record,)
                else:
                    row = row + (by_both_ptr + PLACES[k] * records + record,)
        p, s0, s1, s2, g = train_step(
            p,
            s0,
            s1,
            s2,
            x,
            loss_scale,
            row,
            step,
            powers_ptr,
            WIDTHS,
            STARTS,
            SQUARED,
            HEAD,
            RULE,
            FLAGS,
            STATES,
            LANES,
            COMPUTE,
            GRAD,
            PARAM,
            STATE,
            PACKED,
        )
        if KEEP_GRADS:
            _write(grads_ptr, g, True, 0, model_of_ptr, block, NUMBERS, LOG, BLOCK)
            grads_ptr += models.to(tl.int64) * NUMBERS
        if PASS == "first":
            for k in tl.static_range(NUMBERS):
                least = tl.minimum(least, tl.abs(p[k]), propagate_nan=tl.PropagateNan.ALL)
        sample += families.to(tl.int64) * FEATURES
        if len(DEPENDS) == 0:
            rows_ptr += records * COLUMNS
        else:
            rows_ptr += BY_STEP
            by_both_ptr += BY_BOTH * records
    if PACKED:
        first = ()
        second = ()
        for k in tl.static_range(NUMBERS):
            high, low = unpack(s0[k], STATE)
            first = first + (high,)
            second = second + (low,)
        s0 = first
        s1 = second
    proven, zero = True, steps >> 31
    if PASS == "first":
        # A parameter that was infinite is not finite any more; NaN is not at least anything.
        for k in tl.static_range(NUMBERS):
            least = tl.where(p[k] - p[k] == 0.0, least, 0.0)
        own = tl.load(model_of_ptr + block * BLOCK + tl.arange(0, BLOCK)) >= 0
        mark = tl.max(tl.where(own & ~(least >= LEAST), 1, 0), 0)
        tl.store(marks_ptr + block, mark)
        proven = mark == 0
    _write(params_ptr, p, proven, zero, model_of_ptr, block, NUMBERS, LOG, BLOCK)
    if STATES & 1:
        _write(s0_ptr, s0, proven, zero, model_of_ptr, block, NUMBERS, LOG, BLOCK)
    if STATES & 2:
        _write(s1_ptr, s1, proven, zero, model_of_ptr, block, NUMBERS, LOG, BLOCK)
    if STATES & 4:
        _write(s2_ptr, s2, proven, zero, model_of_ptr, block, NUMBERS, LOG, BLOCK)
