"""The mathematics of Adadelta: real arrays in, real arrays out."""

import jax
import jax.numpy as jnp
from jax import lax


def update_rule(
    grad: jax.Array,
    square_avg: jax.Array,
    acc_delta: jax.Array,
    *,
    rho: jax.typing.ArrayLike,
    eps: jax.typing.ArrayLike,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    r"""One step of Adadelta for every coordinate of one real array.

    .. math::
        v &\leftarrow \rho v + (1 - \rho) g^2 \\
        \Delta &= \sqrt{(u + \varepsilon) / (v + \varepsilon)} \, g \\
        u &\leftarrow \rho u + (1 - \rho) g^2 (u + \varepsilon) / (v + \varepsilon)

    with :math:`(1 - \rho) \Delta^2` spelled out in the last line. One root of the quotient rounds
    less often than the quotient of two roots. The quotients of the last two lines differ in their
    numerators on purpose: a compiler that evaluates each result in a pass of its own then shares
    nothing costly between the passes, and so stores nothing between them.

    ``g``, ``v`` and ``eps`` are counted in a power of two near the largest of them, which is exact
    and keeps every square and quotient within the range of the dtype. What is returned for ``v``
    and ``u`` saturates at the dtype's largest finite number. Where ``v + eps`` is zero, so is the
    gradient, and the update is zero.

    Args:
        grad: The gradient g, float32 or float64, of any shape.
        square_avg: v = E[g²], at least 0, like ``grad``.
        acc_delta: u = E[Δx²], at least 0, like ``grad``.
        rho: Decay rate of both averages, in [0, 1].
        eps: Added to both averages inside the root, at least 0.

    Returns:
        The triple ``(delta, square_avg, acc_delta)``: Δ, and the new v and u, all like ``grad``.

    Source: Zeiler (2012), arXiv:1212.5701, Algorithm 1.
    """
    dtype = grad.dtype
    largest = jnp.finfo(dtype).max
    one_minus_rho = jnp.asarray(1 - rho, dtype)  # subtracted first: a Python float is a double
    rho, eps = jnp.asarray(rho, dtype), jnp.asarray(eps, dtype)

    unit, per_unit = _unit(grad, square_avg, eps)
    g = grad * per_unit
    v = square_avg * per_unit * per_unit
    u = acc_delta
    g_eps = eps * per_unit * per_unit

    v = rho * v + one_minus_rho * (g * g)
    v_eps = v + g_eps
    v_eps = jnp.where(v_eps == 0, 1, v_eps)
    delta = jnp.sqrt((u + eps) / v_eps) * g
    u = rho * u + one_minus_rho * (g * g) * (u + eps) / v_eps

    return delta, jnp.minimum(v * unit * unit, largest), jnp.minimum(u, largest)


def _unit(grad: jax.Array, square_avg: jax.Array, eps: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A power of two near the largest of |g|, √v and √ε, and its inverse, for every coordinate.

    It is above |g| / 4 and above 2⁻¹⁴ of the roots, and it and its inverse are normal numbers. It
    is found on the bit patterns: halving a pattern halves the exponent, so that no root is taken.
    Differentiation takes it for a constant, as the result of the rule does not depend on it.
    """
    info = jnp.finfo(grad.dtype)
    integer = jnp.int32 if info.bits == 32 else jnp.int64
    one = (info.maxexp - 1) << info.nmant  # the pattern of 1.0
    exponent_step = 1 << info.nmant

    def pattern(x):
        return lax.bitcast_convert_type(lax.stop_gradient(x), integer)

    root = (pattern(jnp.maximum(square_avg, eps)) >> 1) + (one >> 1)
    size = jnp.maximum(pattern(jnp.abs(grad)), root - 12 * exponent_step)
    size = jnp.minimum(size, 2 * one - exponent_step) & -exponent_step
    return (
        lax.bitcast_convert_type(size, grad.dtype),
        lax.bitcast_convert_type(2 * one - size, grad.dtype),
    )
