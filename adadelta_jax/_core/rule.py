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
    one_minus_rho: jax.typing.ArrayLike | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    r"""One step of Adadelta for every coordinate of one real array.

    $$
    \begin{aligned}
    v &\leftarrow \rho v + (1 - \rho) g^2 \\
    \Delta &= \sqrt{(u + \varepsilon) / (v + \varepsilon)} \, g \\
    u &\leftarrow \rho u + (1 - \rho) g^2 / (v + \varepsilon) \cdot (u + \varepsilon)
    \end{aligned}
    $$

    where the last product is $(1 - \rho) \Delta^2$.

    Every step stays within the range of the dtype. A gradient whose square would overflow, an
    infinite one too, counts as the largest whose square does not (1.8e19 in float32), so that v
    saturates instead of becoming infinite; so does u. In the denominator ε is at least 2²² times
    the smallest normal number (4.9e-32 in float32), so that a zero gradient gives a zero update.

    Args:
        grad: The gradient g, float32 or float64, of any shape.
        square_avg: v = E[g²], at least 0, of the shape and dtype of ``grad``.
        acc_delta: u = E[Δx²], at least 0, of the shape and dtype of ``grad``.
        rho: Decay rate of both averages, in [0, 1].
        eps: Added to both averages inside the root, in [0, 1e30].
        one_minus_rho: 1 - ρ, where the caller knows it more exactly than ``rho`` tells. None: it
            is computed from ``rho``.

    Returns:
        The triple ``(delta, square_avg, acc_delta)``: Δ, and the new v and u, all of the shape and
        dtype of ``grad``.

    Source: Zeiler (2012), arXiv:1212.5701, Algorithm 1.
    """
    dtype = grad.dtype
    info = jnp.finfo(dtype)
    one_minus_rho = jnp.asarray(1 - rho if one_minus_rho is None else one_minus_rho, dtype)
    rho, eps = jnp.asarray(rho, dtype), jnp.asarray(eps, dtype)
    limit = math.sqrt(info.max) * (1 - 2**-12)

    grad = lax.clamp(jnp.asarray(-limit, dtype), grad, jnp.asarray(limit, dtype))
    weighted_square = one_minus_rho * (grad * grad)
    square_avg = rho * square_avg + weighted_square
    u_eps = acc_delta + eps
    v_eps = square_avg + jnp.maximum(eps, info.tiny * 2**22)

    # One root of a quotient rounds less often than a quotient of two roots. The power of two keeps
    # the quotient within the range of the dtype, and scaling by it is exact.
    scale = _power_of_two_near_inverse_root(v_eps)
    delta = _root(u_eps / (v_eps * scale * scale)) * (grad * scale)
    # Not spelled as delta squared: a compiler that computes each result in a pass of its own then
    # finds nothing costly that two passes share, and so keeps nothing in memory between them.
    acc_delta = rho * acc_delta + weighted_square / v_eps * u_eps
    return delta, square_avg, lax.min(acc_delta, jnp.full_like(acc_delta, info.max))


@jax.custom_jvp
def _root(x: jax.Array) -> jax.Array:
    """√x, with a derivative of zero at zero."""
    return lax.sqrt(x)


@_root.defjvp
def _root_jvp(primals, tangents):
    # x is zero only where ε and u are. The update then stays zero for every gradient, so its
    # derivative is zero, and not infinity times zero.
    root = _root(*primals)
    slope = jnp.where(root > 0, 0.5 / jnp.where(root > 0, root, 1), 0)
    return root, tangents[0] * slope


def _power_of_two_near_inverse_root(x: jax.Array) -> jax.Array:
    """The power of two s with x·s² in [2²¹, 2²³), for positive normal x."""
    # In that interval x·s² can divide, and s multiply, whatever √x can divide, without leaving the
    # range. Shifting the bit pattern right by one halves its exponent. Differentiation takes a bit
    # pattern for a constant, and so s, whose effect cancels.
    info = jnp.finfo(x.dtype)
    integer = jnp.int32 if info.bits == 32 else jnp.int64
    exponent_one = 1 << info.nmant
    bias = info.maxexp - 1
    pattern = lax.bitcast_convert_type(x, integer)
    half_exponent = (pattern >> 1) & -exponent_one
    return lax.bitcast_convert_type((bias + bias // 2 + 11) * exponent_one - half_exponent, x.dtype)
