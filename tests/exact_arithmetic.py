"""One step of Adadelta in far more exact arithmetic, and errors in units in the last place."""

from typing import NamedTuple

import mpmath
import numpy as np

# On x86 a long double has 64 bits of significand, 40 more than float32; elsewhere it may have no
# more than float64. mpmath has as many as asked for, and takes some hundred times longer.
LONG_DOUBLE_SUFFICES = np.finfo(np.longdouble).nmant >= 63
MPMATH = mpmath.mp.clone()
MPMATH.prec = 200

_to_mpmath = np.frompyfunc(lambda x: MPMATH.mpf(float(x)), 1, 1)
_mpmath_sqrt = np.frompyfunc(MPMATH.sqrt, 1, 1)


class Step(NamedTuple):
    """The results of the update rule."""

    delta: np.ndarray
    square_avg: np.ndarray
    acc_delta: np.ndarray


def exact_step(grad, square_avg, acc_delta, rho, eps, in_mpmath=False):
    """The result that the update rule documents, with `rho` and `eps` exact."""
    least_eps = max(eps, float(np.finfo(grad.dtype).tiny) * 2**22)
    in_mpmath = in_mpmath or grad.dtype != np.float32 or not LONG_DOUBLE_SUFFICES
    real, sqrt = (_to_mpmath, _mpmath_sqrt) if in_mpmath else (np.longdouble, np.sqrt)
    g, v, u = real(saturated(grad)), real(square_avg), real(acc_delta)
    rho, eps, least_eps = real(rho), real(eps), real(least_eps)
    v = rho * v + (1 - rho) * g**2
    delta = sqrt(u + eps) / sqrt(v + least_eps) * g
    return Step(delta, v, rho * u + (1 - rho) * delta**2)


def saturated(grad):
    """The gradient as the rule clamps it: its square stays 2⁻¹¹ below the largest number."""
    limit = np.asarray(np.sqrt(float(np.finfo(grad.dtype).max)) * (1 - 2**-12), grad.dtype)
    return np.clip(grad, -limit, limit)


def is_normal(exact, dtype):
    """Whether each exact value is a normal number of `dtype`."""
    info = np.finfo(dtype)
    return ((np.abs(exact) >= info.tiny) & (np.abs(exact) <= info.max)).astype(bool)


def errors_in_ulps(actual, exact, dtype):
    """How far `actual` is from `exact`, in units in the last place of the exact value."""
    exponents = np.frexp(np.abs(exact).astype(np.longdouble))[1] - 1
    ulps = np.ldexp(np.longdouble(1), exponents - np.finfo(dtype).nmant)
    real = _to_mpmath if exact.dtype == object else np.longdouble
    return np.abs(real(np.asarray(actual)) - exact).astype(np.longdouble) / ulps
