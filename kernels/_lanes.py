"""A SIMD vector type for the CPU kernels, with its loads, stores and elementary functions.

A kernel is a loop over time on `LANES` neighbouring channels at once, which one `Lanes` value holds: an LLVM vector with
`+ - * /` between vectors and with scalars. Such a kernel compiles to the same vector code whatever LLVM's auto-vectoriser
decides. Lanes beyond the last channel are masked at loads and stores.
"""

# An intrinsic is called with one argument less than it is declared with.
# pyright: reportCallIssue=false

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.cgutils import get_or_insert_function
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

LANES = 16  # channels side by side: one AVX-512 register of float32, two of AVX2, four of NEON

# ---------------------------------------------------------------------------------------------------------------------
# The vector type
# ---------------------------------------------------------------------------------------------------------------------


class LanesType(types.Type):
    """`LANES` numbers of one float type."""

    def __init__(self, dtype: types.Float) -> None:
        self.dtype = dtype
        super().__init__(name=f"Lanes({dtype})")


def _vector(dtype: types.Float, integer: bool = False) -> ir.VectorType:
    if integer:
        return ir.VectorType(ir.IntType(dtype.bitwidth), LANES)
    return ir.VectorType(ir.FloatType() if dtype == types.float32 else ir.DoubleType(), LANES)


@register_model(LanesType)  # type: ignore
class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: LanesType) -> None:
        super().__init__(dmm, fe_type, _vector(fe_type.dtype))


# Products may fuse with sums, which saves a rounding. Reassociation is not allowed, because it would undo the rounding trick
# in `exp2`; nor may LLVM assume that NaN and infinity never occur, because a diverged run has to show.
_FLAGS = ("contract", "nsz")


def _constant(dtype: types.Float, value: float) -> ir.Constant:
    return ir.Constant(_vector(dtype), [float(np.dtype(dtype.name).type(value))] * LANES)


def _spread(builder: Any, scalar: Any) -> Any:
    one = builder.insert_element(ir.Constant(ir.VectorType(scalar.type, LANES), ir.Undefined), scalar, ir.IntType(32)(0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))


def _as_lanes(context: Any, builder: Any, value: Any, given: types.Type, wanted: LanesType) -> Any:
    return value if given == wanted else _spread(builder, context.cast(builder, value, given, wanted.dtype))


def _operator(function: Callable, instruction: str) -> None:
    @infer_global(function)  # type: ignore
    class Typing(AbstractTemplate):
        def generic(self, args: tuple, kws: dict) -> Any:
            lanes = [a for a in args if isinstance(a, LanesType)]
            if len(args) == 2 and lanes and all(a == lanes[0] or isinstance(a, types.Float | types.Integer) for a in args):
                return signature(lanes[0], *args)

    def lower(context: Any, builder: Any, sig: Any, args: tuple) -> Any:
        a, b = (_as_lanes(context, builder, v, t, sig.return_type) for v, t in zip(args, sig.args, strict=True))
        return getattr(builder, instruction)(a, b, flags=_FLAGS)

    for left, right in [(LanesType, LanesType), (LanesType, types.Number), (types.Number, LanesType)]:
        lower_builtin(function, left, right)(lower)


for _function, _instruction in [
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
]:
    _operator(_function, _instruction)


# ---------------------------------------------------------------------------------------------------------------------
# Memory: flat contiguous arrays, offsets in elements
# ---------------------------------------------------------------------------------------------------------------------


def _address(context: Any, builder: Any, array_type: Any, array: Any, offset: Any) -> Any:
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [offset])


@intrinsic
def load(typingctx, array, offset):
    """Lanes from array[offset : offset + LANES]."""

    def generate(context, builder, sig, args):
        address = _address(context, builder, sig.args[0], *args)
        pointer = builder.bitcast(address, _vector(array.dtype).as_pointer())
        return builder.load(pointer, align=array.dtype.bitwidth // 8, typ=_vector(array.dtype))

    return LanesType(array.dtype)(array, types.int64), generate


@intrinsic
def store(typingctx, array, offset, lanes):
    """array[offset : offset + LANES] = lanes."""

    def generate(context, builder, sig, args):
        address = _address(context, builder, sig.args[0], *args[:2])
        pointer = builder.bitcast(address, _vector(array.dtype).as_pointer())
        builder.store(args[2], pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.int64, lanes), generate


def _masked(builder: Any, action: str, dtype: types.Float, address: Any, count: Any, lanes: Any = None) -> Any:
    """LLVM's masked load, or with `lanes` its masked store, of the lanes below `count`."""
    kind, mask_kind, i32 = _vector(dtype), ir.VectorType(ir.IntType(1), LANES), ir.IntType(32)
    pointer, align = builder.bitcast(address, kind.as_pointer()), i32(dtype.bitwidth // 8)
    numbers = ir.Constant(ir.VectorType(ir.IntType(64), LANES), list(range(LANES)))
    mask = builder.icmp_signed("<", numbers, _spread(builder, count))
    if lanes is None:
        args, result, kinds = [pointer, align, mask, _constant(dtype, 0)], kind, [pointer.type, i32, mask_kind, kind]
    else:
        args, result, kinds = [lanes, pointer, align, mask], ir.VoidType(), [kind, pointer.type, i32, mask_kind]
    name = f"llvm.masked.{action}.v{LANES}f{dtype.bitwidth}.p0"
    return builder.call(get_or_insert_function(builder.module, ir.FunctionType(result, kinds), name), args)


@intrinsic
def load_some(typingctx, array, offset, count):
    """The first `count` lanes from array[offset:], zero in the others."""

    def generate(context, builder, sig, args):
        return _masked(builder, "load", array.dtype, _address(context, builder, sig.args[0], *args[:2]), args[2])

    return LanesType(array.dtype)(array, types.int64, types.int64), generate


@intrinsic
def store_some(typingctx, array, offset, count, lanes):
    """array[offset : offset + count] = the first `count` lanes."""

    def generate(context, builder, sig, args):
        _masked(builder, "store", array.dtype, _address(context, builder, sig.args[0], *args[:2]), args[2], args[3])
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64, lanes), generate


@intrinsic
def spread(typingctx, array, offset):
    """array[offset] in every lane."""

    def generate(context, builder, sig, args):
        return _spread(builder, builder.load(_address(context, builder, sig.args[0], *args)))

    return LanesType(array.dtype)(array, types.int64), generate


@intrinsic
def zeros_like(typingctx, lanes):
    """Zero in every lane."""
    return lanes(lanes), lambda context, builder, sig, args: _constant(lanes.dtype, 0)


@intrinsic
def lane_sum(typingctx, lanes):
    """Sum over the lanes, always in the same order."""

    def generate(context, builder, sig, args):
        total, width = args[0], LANES
        while width > 1:  # halves onto halves
            width //= 2
            index = ir.VectorType(ir.IntType(32), width)
            low = builder.shuffle_vector(total, total, ir.Constant(index, list(range(width))))
            high = builder.shuffle_vector(total, total, ir.Constant(index, list(range(width, 2 * width))))
            total = builder.fadd(low, high)
        return builder.extract_element(total, ir.IntType(32)(0))

    return lanes.dtype(lanes), generate


# ---------------------------------------------------------------------------------------------------------------------
# Elementary functions
# ---------------------------------------------------------------------------------------------------------------------


@intrinsic
def where_less(typingctx, x, y, yes, no):
    """`yes` where x < y, else `no`, also where x or y is NaN. Scalars are spread over the lanes."""

    def generate(context, builder, sig, args):
        a, b, c, d = (_as_lanes(context, builder, v, t, sig.return_type) for v, t in zip(args, sig.args, strict=True))
        return builder.select(builder.fcmp_ordered("<", a, b), c, d)

    return next(t for t in (x, y, yes, no) if isinstance(t, LanesType))(x, y, yes, no), generate


def _fit(function: Callable, low: float, high: float, degree: int) -> list[float]:
    """Power-basis coefficients, constant first, of the Chebyshev interpolant of `function` on [low, high]."""
    fit = np.polynomial.Chebyshev.interpolate(np.vectorize(function), degree, [low, high])
    return fit.convert(kind=np.polynomial.Polynomial, domain=[-1, 1], window=[-1, 1]).coef.tolist()


def _polynomial(builder: Any, dtype: types.Float, coefficients: list[float], x: Any) -> Any:
    total = _constant(dtype, coefficients[-1])
    for c in coefficients[-2::-1]:
        total = builder.fadd(builder.fmul(total, x, flags=_FLAGS), _constant(dtype, c), flags=_FLAGS)
    return total


# (2^f - 1) / f on [-1/2, 1/2] and log(1 + e) / e on [0, 1]. The error vanishes with the argument, so that a decay
# exp(delta A) close to 1 stays accurate over a thousand steps.
_EXP2 = {
    types.float32: _fit(lambda f: math.expm1(f * math.log(2)) / f if f else math.log(2), -0.5, 0.5, 4),
    types.float64: _fit(lambda f: math.expm1(f * math.log(2)) / f if f else math.log(2), -0.5, 0.5, 11),
}
_LOG1P = {
    types.float32: _fit(lambda e: math.log1p(e) / e if e else 1.0, 0, 1, 9),
    types.float64: _fit(lambda e: math.log1p(e) / e if e else 1.0, 0, 1, 20),
}


@intrinsic
def exp2(typingctx, x):
    """2^x: 0 below the range of normal numbers, infinity above it, NaN for NaN."""
    dtype = x.dtype
    bits, lowest, highest = (23, -127, 128) if dtype == types.float32 else (52, -1023, 1024)

    def generate(context, builder, sig, args):
        low, high, one = _constant(dtype, lowest), _constant(dtype, highest), _constant(dtype, 1)
        x = builder.select(builder.fcmp_ordered("<", args[0], low), low, args[0])  # these selects let NaN through
        x = builder.select(builder.fcmp_ordered(">", x, high), high, x)
        # Adding 1.5 * 2^bits leaves round(x) in the lowest bits of the sum, which are then shifted into the exponent.
        magic = _constant(dtype, 1.5 * 2**bits)
        sum_ = builder.fadd(x, magic)
        fraction = builder.fsub(x, builder.fsub(sum_, magic))
        power = _polynomial(builder, dtype, _EXP2[dtype], fraction)
        power = builder.fadd(builder.fmul(power, fraction, flags=_FLAGS), one, flags=_FLAGS)
        integer = _vector(dtype, integer=True)
        exponent = builder.shl(builder.bitcast(sum_, integer), ir.Constant(integer, [bits] * LANES))
        return builder.bitcast(builder.add(builder.bitcast(power, integer), exponent), _vector(dtype))

    return x(x), generate


@intrinsic
def log1p_unit(typingctx, e):
    """log(1 + e) for e in [0, 1]."""

    def generate(context, builder, sig, args):
        return builder.fmul(_polynomial(builder, e.dtype, _LOG1P[e.dtype], args[0]), args[0])

    return e(e), generate


LOG2_E = math.log2(math.e)


@numba.njit(nogil=True)
def sigmoid(x):
    return 1.0 / (1.0 + exp2(x * -LOG2_E))


@numba.njit(nogil=True)
def softplus_and_slope(x):
    """log(1 + exp(x)) and its derivative, from one exponential."""
    e = exp2(where_less(x, 0.0, x, x * -1.0) * LOG2_E)
    r = 1.0 / (1.0 + e)
    return where_less(x, 0.0, 0.0, x) + log1p_unit(e), where_less(x, 0.0, e * r, r)


@numba.njit(nogil=True)
def scratch(size, like):
    """An uninitialised array aligned to 64 bytes, so that no vector straddles two cache lines."""
    array = np.empty(size + LANES, like.dtype)
    start = (-(array.ctypes.data // array.itemsize)) % LANES
    return array[start : start + size]
