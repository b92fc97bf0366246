"""`scale_by_adadelta`: the update rule over a pytree, and its state."""

from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from jax import lax

from adadelta_jax._storage import formats as _accumulators
from adadelta_jax._checks import states as _state_checks
from adadelta_jax._checks import step as _validation
from adadelta_jax._checks.trees import is_leaf
from adadelta_jax._core.rule import update_rule, upper_bounds


class ScaleByAdadeltaState(NamedTuple):
    """The state of [`scale_by_adadelta`][].

    Attributes:
        count: Steps taken, an int32 scalar that stays at its largest value instead of wrapping
            (torch's `step`).
        square_avg: v = E[g²], a pytree like the parameters, of accumulators.
        acc_delta: u = E[Δx²], a pytree like the parameters, of accumulators.
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
    r"""Rescale gradients as Adadelta does: the part of [`adadelta`][] to chain with others.

    $$
    \begin{aligned}
    v &\leftarrow \rho v + (1 - \rho) g^2 \\
    \Delta &= \sqrt{u + \varepsilon} / \sqrt{v + \varepsilon} \cdot g \\
    u &\leftarrow \rho u + (1 - \rho) \Delta^2
    \end{aligned}
    $$

    for every coordinate, with v and u starting at 0. The update is Δ, not yet turned downhill:
    follow with `optax.scale_by_learning_rate(1.0)`. The real and the imaginary part of a complex
    parameter are two coordinates; conjugate what `jax.grad` gives first, as everywhere in Optax.

    A gradient of None means none was computed: the update is zero, and the parameter's v and u
    stay. Arithmetic is in float32, or in the dtype of the gradient or the accumulators if that is
    wider.

    | ``accumulator_dtype`` | v and u are stored in | bytes per parameter |
    | --- | --- | --- |
    | None | the parameter's dtype, float32 at least | 8 (float64: 16) |
    | ``"float32"`` | float32 | 8 |
    | ``"float64"`` | float64 | 16 |
    | ``"bfloat16"`` | bfloat16 | 4 |
    | ``"float16"`` | float16, from 6e-8 to 65504 | 4 |
    | ``"int8"`` | 8-bit floats, a scale for every 256 | 2.04 |

    What is stored in fewer bits than computed in is rounded at random, up or down, right on
    average; the largest number stands for all that are larger. The randomness comes from the step
    count and the place in the tree: runs are reproducible and need no key. With ``"int8"``,
    parameters of fewer than 4,096 elements keep float32. Complex parameters take twice the bytes
    of the table, and at least complex64.

    Args:
        rho: Decay rate of both averages, a scalar in [0, 1].
        eps: ε, added to both averages inside the roots, a scalar in [0, 1e30], in the units of
            the square of a gradient and of a parameter.
        accumulator_dtype: How v and u are stored, None or a dtype; see the table.

    Returns:
        An `optax.GradientTransformation`. Its updates have the shapes and dtypes of the gradients,
        its state is a [`ScaleByAdadeltaState`][]. With ``"int8"`` an accumulator there is a pair of
        arrays, ``codes`` (uint8, shaped like the parameter) and ``scale`` (float32).

    Raises:
        ValueError: If ``rho``, ``eps`` or ``accumulator_dtype`` is out of range, or, from
            `update`, if the gradients' tree or shapes do not match the state's.
        TypeError: If an argument has the wrong type, from `init` if a parameter is an integer or
            boolean, from `update` if a gradient is sparse; the parameter is named.

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
    _validation.check_rho(rho)
    _validation.check_eps(eps)
    _validation.check_accumulator_dtype(accumulator_dtype)

    # Compiled by itself, so that leaves of one shape and dtype are traced once.
    step = jax.jit(partial(_step, rho=rho, eps=eps))

    def init_fn(params):
        _validation.check_params(params)

        def zeros():
            return jax.tree.map(lambda p: _accumulators.zeros(p, accumulator_dtype), params)

        return ScaleByAdadeltaState(jnp.zeros([], jnp.int32), zeros(), zeros())

    def update_fn(updates, state, params=None):
        is_ours = isinstance(state, ScaleByAdadeltaState)
        _state_checks.check_state("scale_by_adadelta", state, is_ours)
        _state_checks.check_accumulators("state", [state])
        shapes = _accumulators.shapes(state.square_avg)
        _validation.check_gradients(updates, shapes, "accumulators")
        _state_checks.check_same_shapes(shapes, _accumulators.shapes(state.acc_delta))
        grads, structure = jax.tree.flatten(updates, is_leaf=is_leaf)
        square_avgs = structure.flatten_up_to(state.square_avg)
        acc_deltas = structure.flatten_up_to(state.acc_delta)
        like = structure.flatten_up_to(shapes if params is None else params)

        deltas = []
        for i, (grad, param) in enumerate(zip(grads, like, strict=True)):
            if grad is None:
                deltas.append(None if param is None else jnp.zeros_like(param))
                continue
            delta, square_avgs[i], acc_deltas[i] = step(
                jnp.asarray(grad), square_avgs[i], acc_deltas[i], state.count, i
            )
            deltas.append(delta)

        return structure.unflatten(deltas), ScaleByAdadeltaState(
            jnp.asarray(optax.safe_increment(state.count)),
            structure.unflatten(square_avgs),
            structure.unflatten(acc_deltas),
        )

    return optax.GradientTransformation(init_fn, update_fn)


def _step(grad, square_avg, acc_delta, count, leaf, *, rho, eps):
    """The update and the new accumulators of one parameter: load, rule, store."""
    dtype = _accumulators.promoted(grad.dtype, square_avg.dtype, jnp.float32)
    rho, eps = (_in_precision_of(dtype, setting) for setting in (rho, eps))
    delta, new_square_avg, new_acc_delta = _rule_on_real_parts(
        grad.astype(dtype),
        _accumulators.load(square_avg, dtype),
        _accumulators.load(acc_delta, dtype),
        rho=rho,
        eps=eps,
    )
    at_most = (None, None)
    if _accumulators.is_accumulator(square_avg):
        largest = map(_accumulators.largest_in_blocks, (grad, square_avg, acc_delta))
        at_most = upper_bounds(*largest, rho=rho, eps=eps)
    results = (
        delta.astype(grad.dtype),
        _accumulators.store(new_square_avg, square_avg, (count, leaf, 0), at_most[0]),
        _accumulators.store(new_acc_delta, acc_delta, (count, leaf, 1), at_most[1]),
    )
    return jax.tree.map(_sharded_like, results, (grad, square_avg, acc_delta))


def _in_precision_of(dtype, setting):
    """A setting as a real number as precise as `dtype`.

    `optax.inject_hyperparams` gives it the dtype of the first parameter, which may be complex.
    """
    if isinstance(setting, (int, float)):
        return setting
    return jnp.real(setting).astype(jnp.finfo(dtype).dtype)


def _sharded_like(array, like):
    """The array sharded as `like` is, where shardings are explicit: in the arrays' types."""
    sharding = jax.typeof(like).sharding
    if sharding.mesh.empty or jax.typeof(array).sharding == sharding:
        return array
    return jax.sharding.reshard(array, sharding)


def _rule_on_real_parts(grad, square_avg, acc_delta, **settings):
    """`update_rule`, in which a complex number is two real ones."""
    arrays = (grad, square_avg, acc_delta)
    if not jnp.iscomplexobj(grad):
        return update_rule(*arrays, **settings)
    real = update_rule(*map(jnp.real, arrays), **settings)
    imag = update_rule(*map(jnp.imag, arrays), **settings)
    return tuple(map(lax.complex, real, imag))
