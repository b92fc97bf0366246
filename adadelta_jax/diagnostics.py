"""What the optimizer is doing."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from adadelta_jax import _accumulators, _validation
from adadelta_jax._param_groups import adadelta_states


def effective_learning_rate(opt_state: optax.OptState, eps: jax.typing.ArrayLike = 1e-6) -> Any:
    r"""What every coordinate's next gradient is about to be multiplied by, before γ.

    .. math::
        \sqrt{u + \varepsilon} / \sqrt{v + \varepsilon}

    with v and u as they stand: the step itself puts its gradient into v first.

    Args:
        opt_state: A state that holds a `ScaleByAdadeltaState`, at any depth, or several of them for
            different parameters, as that of `param_groups` does.
        eps: ε, as the optimizer has it.

    Returns:
        A pytree like the parameters, of arrays like them in the dtype of the accumulators, float32
        at least. The real and the imaginary part of a complex one are the rates of those parts. A
        parameter without v and u, such as a frozen one, has an `optax.MaskedNode` in its place.

    Raises:
        ValueError: If there is no `ScaleByAdadeltaState`, or ``eps`` is below 0.
        TypeError: If ``eps`` is no number.

    Example:
        >>> import jax.numpy as jnp
        >>> from adadelta_jax import adadelta
        >>> from adadelta_jax.diagnostics import effective_learning_rate
        >>> optimizer = adadelta()
        >>> params = {"w": jnp.zeros(2)}
        >>> state = optimizer.init(params)
        >>> _, state = optimizer.update({"w": jnp.array([1.0, 1e-3])}, state, params)
        >>> print(effective_learning_rate(state)["w"].round(4))
        [0.0045 0.9959]

    Source: Zeiler (2012), `arXiv:1212.5701 <https://arxiv.org/abs/1212.5701>`_, section 4.3.
    """
    _validation.check_hyperparameters(eps=eps)
    states = adadelta_states(opt_state)
    _validation.check_holds_accumulators(states)

    def rate(square_avg, acc_delta):
        if jnp.iscomplexobj(square_avg):
            parts = ((part(square_avg), part(acc_delta)) for part in (jnp.real, jnp.imag))
            return lax.complex(*(rate(*each) for each in parts))
        dtype = jnp.promote_types(square_avg.dtype, jnp.float32)
        u_eps, v_eps = (x.astype(dtype) + eps for x in (acc_delta, square_avg))
        return jnp.sqrt(u_eps) / jnp.sqrt(jnp.maximum(v_eps, jnp.finfo(dtype).tiny))

    rates = [
        jax.tree.map(rate, *map(_accumulators.values, (state.square_avg, state.acc_delta)))
        for state in states
    ]
    return functools.reduce(_merged, rates)


def _merged(tree: Any, other: Any) -> Any:
    """One tree of two that are masked in different places."""
    if isinstance(tree, optax.MaskedNode):
        return other
    if isinstance(other, optax.MaskedNode) or jax.tree_util.all_leaves([tree]):
        return tree
    return jax.tree.map(_merged, tree, other, is_leaf=lambda node: node is not tree)
