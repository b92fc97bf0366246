"""The mathematics of Adadelta: real arrays in, real arrays out."""

import math

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

    $$
    \begin{aligned}
    v &\leftarrow \rho v + (1 - \rho) g^2 \\
    \Delta &= \sqrt{(u + \varepsilon) / (v + \varepsilon)} \, g \\
    u &\leftarrow \rho u + (1 - \rho) g^2 / (v + \varepsilon) \cdot (u + \varepsilon)
    \end{aligned}
    $$

    where the last product is $(1 - \rho) \Delta^2$. One root of a quotient rounds less often
    than a quotient of two roots. The two quotients differ on purpose: a compiler that computes each
    result in a pass of its own then finds nothing costly to share between the passes, and so keeps
    nothing in memory between them.

    Every step stays within the range of the dtype. A gradient whose square would not fit, an
    infinite one too, counts as the largest whose square does (1.8e19 in float32), so that v
    saturates instead of becoming infinite; so does u. In ``v + eps`` an ε counts as
    2²² of the smallest normal number (4.9e-32 in float32) at least, so that a zero gradient gives a
    zero update, and g can be divided by the root.

    Args:
        grad: The gradient g, float32 or float64, of any shape.
        square_avg: v = E[g²], at least 0, like ``grad``.
        acc_delta: u = E[Δx²], at least 0, like ``grad``.
        rho: Decay rate of both averages, in [0, 1].
        eps: Added to both averages inside the root, in [0, 1e30].

    Returns:
        The triple ``(delta, square_avg, acc_delta)``: Δ, and the new v and u, all like ``grad``.

    Source: Zeiler (2012), arXiv:1212.5701, Algorithm 1.
    """
    dtype = grad.dtype
    info = jnp.finfo(dtype)
    one_minus_rho = jnp.asarray(1 - rho, dtype)  # subtracted first: a Python float is a double
    rho, eps = jnp.asarray(rho, dtype), jnp.asarray(eps, dtype)
    limit = math.sqrt(info.max) * (1 - 2**-12)

    grad = lax.clamp(jnp.asarray(-limit, dtype), grad, jnp.asarray(limit, dtype))
    weighted_square = one_minus_rho * (grad * grad)
    square_avg = rho * square_avg + weighted_square
    u_eps = acc_delta + eps
    v_eps = square_avg + jnp.maximum(eps, info.tiny * 2**22)

    scale = _power_of_two_near_inverse_root(v_eps)  # scaling is exact
    delta = _root(u_eps / (v_eps * scale * scale)) * (grad * scale)
    acc_delta = rho * acc_delta + weighted_square / v_eps * u_eps
    return delta, square_avg, lax.min(acc_delta, jnp.full_like(acc_delta, info.max))


def upper_bounds(
    grad: jax.Array,
    square_avg: jax.Array,
    acc_delta: jax.Array,
    *,
    rho: jax.typing.ArrayLike,
    eps: jax.typing.ArrayLike,
) -> tuple[jax.Array, jax.Array]:
    r"""What v and u are at most after a step, where |g|, v and u are at most the given ones before.

    No more is known of where each is largest. v is at least half as large somewhere. u follows from
    $(1 - \rho) \Delta^2 \le u + \varepsilon$, since v is at least $(1 - \rho) g^2$; it
    is at least $\rho / (1 + \rho)$ times as large somewhere, unless it is less than ε.
    Both are NaN where a gradient is.
    """
    _, square_avg, _ = update_rule(grad, square_avg, acc_delta, rho=rho, eps=eps)
    most = rho * acc_delta + (acc_delta + eps)
    acc_delta = lax.min(most, jnp.full_like(most, jnp.finfo(most.dtype).max))
    return square_avg, jnp.where(jnp.isnan(square_avg), jnp.nan, acc_delta)


@jax.custom_jvp
def _root(x: jax.Array) -> jax.Array:
    """√x, whose derivative at zero counts as zero.

    Only with an ε of 0 and u still 0 is the root that of zero, and then the update stays zero
    whatever the gradient: the derivative by it is zero, and not infinity times zero.
    """
    return lax.sqrt(x)


@_root.defjvp
def _root_jvp(primals, tangents):
    root = _root(*primals)
    slope = jnp.where(root > 0, 0.5 / jnp.where(root > 0, root, 1), 0)
    return root, tangents[0] * slope


def _power_of_two_near_inverse_root(x: jax.Array) -> jax.Array:
    """The power of two s, for every positive normal x, for which x·s² lies in [2²¹, 2²³).

    There x·s² can divide, and s multiply, whatever √x can divide, without leaving the range.

    It is found on the bit pattern: shifted right by one place, the pattern's exponent is halved. To
    differentiation a bit pattern is a constant, and so is s; what it scales is scaled back.
    """
    info = jnp.finfo(x.dtype)
    integer = jnp.int32 if info.bits == 32 else jnp.int64
    exponent_one = 1 << info.nmant
    bias = info.maxexp - 1
    pattern = lax.bitcast_convert_type(x, integer)
    half_exponent = (pattern >> 1) & -exponent_one
    return lax.bitcast_convert_type((bias + bias // 2 + 11) * exponent_one - half_exponent, x.dtype)
