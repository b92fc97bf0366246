"""Adadelta's step in more digits than any dtype holds, and the distance from it."""

import mpmath
import numpy as np

# 64 bits of mantissa on x86; elsewhere `long double` may be a double, and mpmath takes its place.
HAS_LONG_DOUBLE = np.finfo(np.longdouble).nmant >= 63


def exact_step(grad, square_avg, acc_delta, rho, eps, digits=None):
    """Δ, v and u after one step; `rho` and `eps` are the doubles that Python means by them.

    With `digits`, in mpmath with so many decimal digits, one coordinate after the other; otherwise
    in long doubles, whose range is wide enough for the square of every float32.
    """
    if digits is None and HAS_LONG_DOUBLE:
        g, v, u = (x.astype(np.longdouble) for x in (grad, square_avg, acc_delta))
        return _step(g, v, u, np.longdouble(rho), np.longdouble(eps), np.sqrt)
    with mpmath.workdps(digits or 40):
        coordinates = [
            _step(
                *(mpmath.mpf(float(x)) for x in each), mpmath.mpf(rho), mpmath.mpf(eps), mpmath.sqrt
            )
            for each in zip(grad, square_avg, acc_delta, strict=True)
        ]
    return tuple(np.array(column, object) for column in zip(*coordinates, strict=True))


def _step(g, v, u, rho, eps, sqrt):
    v = rho * v + (1 - rho) * g**2
    delta = sqrt((u + eps) / (v + eps)) * g
    return delta, v, rho * u + (1 - rho) * delta**2


def units_in_the_last_place(result, exact):
    """How far `result` is from `exact`, in spacings of its dtype there, where both are normal."""
    dtype = result.dtype
    size = np.abs(exact).astype(dtype)
    normal = (size >= np.finfo(dtype).tiny) & (size < np.finfo(dtype).max)
    wide = exact.dtype if exact.dtype == object else np.longdouble
    if wide is object or exact.dtype == object:
        result = np.array([mpmath.mpf(float(x)) for x in result], object)
    with np.errstate(over="ignore"):
        spacing = np.spacing(size)
    error = np.abs(result - exact) / spacing
    return error[normal].astype(np.float64)
