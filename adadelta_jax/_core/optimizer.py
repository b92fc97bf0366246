"""`adadelta`: the ready-made chain."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from adadelta_jax._checks import states as _state_checks
from adadelta_jax._checks import step as _validation
from adadelta_jax._core.transform import ScaleByAdadeltaState, scale_by_adadelta


def adadelta(
    learning_rate: optax.ScalarOrSchedule | None = 1.0,
    rho: jax.typing.ArrayLike = 0.9,
    eps: jax.typing.ArrayLike = 1e-6,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    *,
    maximize: bool = False,
    decoupled_weight_decay: bool = False,
    accumulator_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""The Adadelta optimizer, as in torch, with the arguments of `optax.adadelta` in their order.

    $$
    \begin{aligned}
    g &\leftarrow -g && \text{if maximize} \\
    g &\leftarrow g + \lambda \theta && \text{if weight decay is coupled} \\
    v &\leftarrow \rho v + (1 - \rho) g^2 \\
    \Delta &= \sqrt{u + \varepsilon} / \sqrt{v + \varepsilon} \cdot g \\
    u &\leftarrow \rho u + (1 - \rho) \Delta^2 \\
    \theta &\leftarrow \theta - \gamma \Delta && \text{and } - \gamma \lambda \theta
        \text{ if weight decay is decoupled}
    \end{aligned}
    $$

    for every coordinate, with v and u starting at 0.

    Args:
        learning_rate: γ, a scalar of at least 0 (a number, a 0-d array or a traced value), a
            schedule (step count to scalar), or None, which means 1.0, as in the paper.
        rho: Decay rate of both averages, a scalar in [0, 1].
        eps: ε, added to both averages inside the roots, a scalar in [0, 1e30].
        weight_decay: λ, a scalar of at least 0, or a schedule.
        weight_decay_mask: A pytree of booleans like the parameters or a prefix of them, or a
            function from the parameters to one: True where weight decay applies. None: everywhere.
        maximize: Whether to climb instead of descend.
        decoupled_weight_decay: Whether weight decay acts on the parameters alone, as in AdamW,
            instead of on the gradients, as in torch.
        accumulator_dtype: How v and u are stored; see [`scale_by_adadelta`][].

    Returns:
        An `optax.GradientTransformationExtraArgs`. Its updates have the shapes and dtypes of the
        gradients. A gradient of None gives a zero update and leaves v and u alone.

    Raises:
        ValueError: If a setting is out of range, or, from `update`, if the gradients do not match
            the state, or ``params`` is missing where weight decay needs it.
        TypeError: If a setting has the wrong type, if a parameter is an integer or boolean (from
            `init`) or a gradient is sparse (from `update`); the parameter is named.

    Examples:
        >>> import jax, jax.numpy as jnp, optax
        >>> from adadelta_jax import adadelta
        >>> def loss(params):
        ...     return jnp.sum((params - 3.0) ** 2)
        >>> optimizer = adadelta()
        >>> params = jnp.zeros(2)
        >>> state = optimizer.init(params)
        >>> @jax.jit
        ... def step(params, state):
        ...     grads = jax.grad(loss)(params)
        ...     updates, state = optimizer.update(grads, state, params)
        ...     return optax.apply_updates(params, updates), state
        >>> for _ in range(1000):
        ...     params, state = step(params, state)
        >>> print(f"{loss(params):.3f}")
        0.000

    Source: Zeiler (2012), [arXiv:1212.5701](https://arxiv.org/abs/1212.5701), and
    [torch.optim.Adadelta](
    <https://docs.pytorch.org/docs/stable/generated/torch.optim.Adadelta.html>).
    """
    if learning_rate is None:
        learning_rate = 1.0
    learning_rate = _validation.check_scalar_or_schedule("learning_rate", learning_rate)
    weight_decay = _validation.check_scalar_or_schedule("weight_decay", weight_decay)
    _validation.check_flag("maximize", maximize)
    _validation.check_flag("decoupled_weight_decay", decoupled_weight_decay)
    scale = scale_by_adadelta(rho, eps, accumulator_dtype=accumulator_dtype)
    decays = not (isinstance(weight_decay, (int, float)) and weight_decay == 0)

    def chain(params):
        decay = optax.identity()
        if decays:
            # A mask function gets the parameters: Optax would hand it gradients, None among them.
            mask = weight_decay_mask(params) if callable(weight_decay_mask) else weight_decay_mask
            if mask is not None:
                _validation.check_weight_decay_mask(mask, params)
            decay = optax.add_decayed_weights(weight_decay, mask)
            decay = decay if decoupled_weight_decay else _computed_once(decay)
        return optax.chain(
            optax.scale(-1.0) if maximize else optax.identity(),
            *((scale, decay) if decoupled_weight_decay else (decay, scale)),
            optax.scale_by_learning_rate(learning_rate),
        )

    def init_fn(params):
        return chain(params).init(params)

    def update_fn(updates, state, params=None, **extra_args):
        _state_checks.check_state("adadelta", state, _is_chain_state(state))
        if decays:
            _validation.check_weight_decay_has_params(params)
        if params is None:
            _validation.check_are_gradients(updates)
        else:
            _validation.check_gradients(updates, params, "parameters")
        grads = updates
        updates, state = chain(params).update(grads, state, params, **extra_args)
        updates = jax.tree.map(_like_gradient, grads, updates, is_leaf=lambda x: x is None)
        if params is not None:
            state = _written_after(optax.apply_updates(params, updates), state)
        return updates, state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _is_chain_state(state: Any) -> bool:
    parts = state if type(state) is tuple else ()
    return any(isinstance(part, ScaleByAdadeltaState) for part in parts)


def _like_gradient(grad, update):
    """The update in its gradient's dtype, and zero where there is no gradient."""
    if grad is None:
        return jax.tree.map(jnp.zeros_like, update)
    return update.astype(jnp.result_type(grad))


def _computed_once(decay: optax.GradientTransformation) -> optax.GradientTransformation:
    """Coupled weight decay whose result a compiler for CPUs keeps, instead of deriving it anew.

    All three passes of `_written_after` need g + λθ. Left to itself, XLA lets each add it up, and
    copies θ for those that come after θ is overwritten. It does not repeat a division, though, and
    so keeps what has been divided by one: as many bytes of scratch as the copy, but fewer to move.
    """

    def kept(grad):
        # Division by one is no identity in complex numbers, and half precision is kept in float32.
        if jnp.iscomplexobj(grad) or grad.dtype.itemsize < 4:
            return grad
        return grad / jnp.where(_never(grad), 2, 1).astype(grad.dtype)

    def update_fn(updates, state, params=None):
        updates, state = decay.update(updates, state, params)
        on_cpu = partial(jax.tree.map, kept)
        return lax.platform_dependent(updates, cpu=on_cpu, default=lambda same: same), state

    return optax.GradientTransformation(decay.init, update_fn)


def _written_after(new_params: Any, chain_state: Any) -> Any:
    """The state of the chain, whose u a compiler for CPUs now writes after `new_params`.

    XLA's CPU backend makes one pass over memory for each result: v, from which the others follow,
    then the parameters and u. Where parameters and state are donated, each is overwritten in place.
    But the pass that writes the parameters reads the old u, and nothing says that it goes first, so
    XLA would copy u. Here u is made to depend on the new parameters. Where v is rounded to be
    stored, the others follow from the old v, and v is made to depend on u.

    `new_params` is the expression that the caller is about to evaluate, and costs nothing then.
    Other platforms, on which one pass writes all three, get the state as it is.
    """

    def in_order(new_params, state):
        acc_delta = jax.tree.map(after, new_params, state.acc_delta)
        square_avg = jax.tree.map(
            lambda _, u, v: after(written(u), v) if written(v).dtype.itemsize < 4 else v,
            new_params,
            acc_delta,
            state.square_avg,
        )
        return state._replace(acc_delta=acc_delta, square_avg=square_avg)

    def after(other, accumulator):
        return jax.tree.map(
            lambda x: _depending_on(other, x) if alike(other, x) else x, accumulator
        )

    def alike(x, y):
        return x.shape == y.shape and jax.typeof(x).sharding == jax.typeof(y).sharding

    def written(accumulator):
        return jax.tree.leaves(accumulator)[0]

    def written_after(state):
        if not isinstance(state, ScaleByAdadeltaState):
            return state
        return lax.platform_dependent(
            new_params, state, cpu=in_order, default=lambda _, state: state
        )

    return tuple(map(written_after, chain_state))


@jax.jit  # so that leaves of one shape and dtype are traced once
def _depending_on(other: jax.Array, value: jax.Array) -> jax.Array:
    """`value`, bit for bit, chosen on a condition on `other` that never holds.

    (A bfloat16 NaN stays a NaN, but XLA's CPU backend, which computes in float32, may change its
    payload.)
    """
    return lax.select(_never(other), jnp.zeros_like(value), value)


def _never(x: jax.Array) -> jax.Array:
    """False everywhere, as nothing is below minus infinity.

    XLA does not know; LLVM, which compiles a pass once XLA has planned it, does, and drops the
    condition and whatever is read for it alone.
    """
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        x = x.astype(jnp.float32)
    return jnp.real(lax.stop_gradient(x)) < -jnp.inf
