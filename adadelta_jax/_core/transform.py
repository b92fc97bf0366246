"""`scale_by_adadelta`: the update rule over a pytree, and its state."""

from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from adadelta_jax._checks.settings import check_accumulator_dtype, check_eps, check_rho
from adadelta_jax._checks.states import check_state
from adadelta_jax._checks.step import check_params, check_step
from adadelta_jax._core.in_place import computed_apart, reshard_like
from adadelta_jax._core.rule import update_rule
from adadelta_jax._storage import formats
from adadelta_jax._storage.float8 import SMALLEST_EPS
from adadelta_jax._storage.hash_bits import fold_in


class ScaleByAdadeltaState(NamedTuple):
    """The state of [`scale_by_adadelta`][].

    Attributes:
        count: Steps taken, an int32 scalar that stays at its largest value instead of wrapping
            (torch's `step`).
        square_avg: v = E[g²], a pytree of arrays like the parameters.
        acc_delta: u = E[Δx²], a pytree of arrays like the parameters.
    """

    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]
    square_avg: chex.ArrayTree
    acc_delta: chex.ArrayTree


def scale_by_adadelta(
    rho: jax.typing.ArrayLike = 0.9,
    eps: jax.typing.ArrayLike = 1e-6,
    *,
    accumulator_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformation:
    r"""Rescale gradients by Adadelta's rule: the part of [`adadelta`][] to chain with others.

    $$
    \begin{aligned}
    v &\leftarrow \rho v + (1 - \rho) g^2 \\
    \Delta &= \sqrt{u + \varepsilon} / \sqrt{v + \varepsilon} \cdot g \\
    u &\leftarrow \rho u + (1 - \rho) \Delta^2
    \end{aligned}
    $$

    for every coordinate, with v and u starting at 0. The update is Δ, which points uphill: follow
    with `optax.scale_by_learning_rate(1.0)`. The real and the imaginary part of a complex parameter
    are two coordinates. Conjugate the result of `jax.grad` first, as everywhere in Optax.

    A gradient of None gives a zero update and leaves the parameter's accumulators alone. Arithmetic
    is in float32, or in the dtype of the gradient or the accumulators if that is wider.

    | ``accumulator_dtype`` | v and u are stored in | bytes per parameter |
    | --- | --- | --- |
    | None | the parameter's dtype, float32 at least | 8 (float64: 16) |
    | ``"float32"`` | float32 | 8 |
    | ``"float64"`` | float64 | 16 |
    | ``"bfloat16"`` | bfloat16 | 4 |
    | ``"float16"`` | float16, from 6e-8 to 65504 | 4 |
    | ``"uint8"`` | 8-bit floats: codes, from 2.9e-11 to 1.9e9 | 2 |

    Accumulators with fewer bits than the arithmetic are rounded at random, up or down, so that they
    are right on average. Larger values are clamped to the maximum. The randomness comes from the
    step count and the place in the tree, so runs are reproducible and need no key. Complex
    parameters take twice the bytes of the table, and at least complex64.

    Args:
        rho: Decay rate of both averages, a scalar in [0, 1].
        eps: ε, added to both averages inside the roots, a scalar in [0, 1e30], in the units of
            the square of a gradient and of a parameter. With ``"uint8"``, at least 1e-9.
        accumulator_dtype: How the accumulators are stored, None or a dtype; see the table.

    Returns:
        An `optax.GradientTransformation`. Its updates have the shapes and dtypes of the gradients.
        Its state is a [`ScaleByAdadeltaState`][].

    Raises:
        ValueError: If ``rho``, ``eps`` or ``accumulator_dtype`` is out of range. From `update`, if
            the gradients do not match the state or the parameters in structure or shape.
        TypeError: If an argument has the wrong type. From `init`, if a parameter is an integer or
            boolean; from `update`, if a gradient is sparse or the state is not this one's. The
            parameter is named.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from adadelta_jax import scale_by_adadelta
        >>> optimizer = optax.chain(
        ...     optax.clip_by_global_norm(1.0),
        ...     scale_by_adadelta(rho=0.95),
        ...     optax.scale_by_learning_rate(1.0),
        ... )
        >>> params = {"w": jnp.array([1.0, -2.0])}
        >>> state = optimizer.init(params)
        >>> updates, state = optimizer.update({"w": jnp.array([0.3, -0.4])}, state, params)
        >>> [round(float(w), 4) for w in optax.apply_updates(params, updates)["w"]]
        [0.9955, -1.9955]

    Source: Zeiler (2012), [arXiv:1212.5701](https://arxiv.org/abs/1212.5701), Algorithm 1.
    """
    scale = unchecked_scale_by_adadelta(rho, eps, accumulator_dtype=accumulator_dtype)

    def update_fn(updates, state, params=None):
        check_state("scale_by_adadelta", state, isinstance(state, ScaleByAdadeltaState))
        check_step(updates, state, params)
        return scale.update(updates, state, params)

    return optax.GradientTransformation(scale.init, update_fn)


def adadelta_states(state: optax.OptState) -> list[ScaleByAdadeltaState]:
    """Every `ScaleByAdadeltaState` in a state, at any depth."""
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, ScaleByAdadeltaState))
    return [node for node in nodes if isinstance(node, ScaleByAdadeltaState)]


def unchecked_scale_by_adadelta(
    rho: jax.typing.ArrayLike, eps: jax.typing.ArrayLike, *, accumulator_dtype: Any
) -> optax.GradientTransformation:
    """`scale_by_adadelta` for a caller that has checked what it passes to `update`."""
    check_rho(rho)
    accumulator_dtype = check_accumulator_dtype(accumulator_dtype)
    check_eps(eps, smallest=SMALLEST_EPS if accumulator_dtype == jnp.uint8 else 0.0)
    # Subtracted in Python, whose float is a double, where rho is one.
    one_minus_rho = 1 - rho if isinstance(rho, (int, float)) else None
    settings = {"rho": rho, "eps": eps, "one_minus_rho": one_minus_rho}

    def init_fn(params):
        check_params(params)

        def zeros():
            return jax.tree.map(lambda p: formats.zeros(p, accumulator_dtype), params)

        return ScaleByAdadeltaState(jnp.zeros([], jnp.int32), zeros(), zeros())

    def update_fn(updates, state, params=None):
        square_avgs, structure = jax.tree.flatten(
            state.square_avg, is_leaf=lambda node: node is None
        )
        acc_deltas = structure.flatten_up_to(state.acc_delta)
        grads = structure.flatten_up_to(updates)
        param_leaves = square_avgs if params is None else structure.flatten_up_to(params)
        count = _int32(state.count)
        is_rounded = any(
            grad is not None and v is not None and formats.is_rounded(v, grad)
            for grad, v in zip(grads, square_avgs, strict=True)
        )
        keys = _rounding_keys(count, len(grads)) if is_rounded else None

        deltas = []
        for i, (grad, param) in enumerate(zip(grads, param_leaves, strict=True)):
            if square_avgs[i] is None:
                deltas.append(None)
            elif grad is None:
                deltas.append(jnp.zeros_like(formats.values(param)))
            else:
                delta, square_avgs[i], acc_deltas[i] = _step(
                    jnp.asarray(grad), square_avgs[i], acc_deltas[i], settings, keys, i
                )
                deltas.append(delta)

        return structure.unflatten(deltas), ScaleByAdadeltaState(
            jnp.asarray(optax.safe_increment(count)),
            structure.unflatten(square_avgs),
            structure.unflatten(acc_deltas),
        )

    return optax.GradientTransformation(init_fn, update_fn)


# One function for all optimizers, with their settings as operands: an optimizer made anew, or with
# other settings, as `optax.inject_hyperparams` makes one at every step, compiles nothing anew.
@jax.jit
def _step(grad, square_avg, acc_delta, settings, keys, leaf_index):
    """The update and the new accumulators of one parameter: load, rule, store."""
    dtype = formats.promote(grad.dtype, square_avg.dtype, jnp.float32)
    settings = {name: _real(setting, dtype) for name, setting in settings.items()}
    delta, new_square_avg, new_acc_delta = _rule_on_real_parts(
        reshard_like(grad.astype(dtype), square_avg),
        formats.load(square_avg, dtype),
        formats.load(acc_delta, dtype),
        **settings,
    )
    # v and u are rounded by the same bits, up or down together. Where v is too small by chance, Δ²
    # is too large, and u would grow with it. Rounded alike, u is too small at the same time.
    key = None if keys is None else keys[leaf_index]
    results = (
        delta.astype(grad.dtype),
        formats.store(new_square_avg, square_avg, key),
        formats.store(new_acc_delta, acc_delta, key),
    )
    return jax.tree.map(reshard_like, results, (grad, square_avg, acc_delta))


@partial(jax.jit, static_argnums=1)
def _rounding_keys(count, leaves):
    """A key for every leaf, uint32 [leaves]: all at once is one kernel on a GPU."""
    # A state that `jax.vmap` made has a count for each of its members.
    return fold_in(fold_in(0, jnp.max(count)), jnp.arange(leaves))


def _real(setting, dtype):
    """A setting as a real number of the precision of `dtype`."""
    # `optax.inject_hyperparams` gives settings the dtype of the first parameter, maybe complex.
    return None if setting is None else jnp.real(setting).astype(jnp.finfo(dtype).dtype)


def _int32(count):
    """A count of any integer type as an int32, saturated as the count of a run is."""
    limit = jnp.iinfo(jnp.int32).max
    if not isinstance(count, jax.Array):
        return jnp.asarray(np.minimum(count, limit), jnp.int32)
    return count if count.dtype == jnp.int32 else jnp.minimum(count, limit).astype(jnp.int32)


_jitted_rule = jax.jit(
    update_rule
)  # so that `computed_apart`, which calls it thrice, traces it once


def _rule_on_real_parts(grad, square_avg, acc_delta, **settings):
    """`update_rule`, in which a complex number is two real ones."""
    rule = partial(computed_apart, partial(_jitted_rule, **settings))
    arrays = (grad, square_avg, acc_delta)
    if not jnp.iscomplexobj(grad):
        return rule(*arrays)
    return tuple(map(lax.complex, rule(*map(jnp.real, arrays)), rule(*map(jnp.imag, arrays))))
