"""What the optimizer is doing."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import PartitionSpec

from adadelta_jax._checks.settings import check_eps
from adadelta_jax._checks.states import check_holds_accumulators, merging_states
from adadelta_jax._checks.step import check_arrays
from adadelta_jax._core.transform import adadelta_states
from adadelta_jax._storage.formats import promote, values
from adadelta_jax._storage.hash_bits import fold_in, hash_bits

LARGEST_SAMPLE = 2**14  # elements of which the median is taken


def effective_learning_rate(opt_state: optax.OptState, eps: jax.typing.ArrayLike = 1e-6) -> Any:
    r"""The factor by which the next step multiplies each coordinate's gradient, before γ.

    $$
    \sqrt{u + \varepsilon} / \sqrt{v + \varepsilon}
    $$

    with the current v and u. The step itself adds its gradient to v first.

    Args:
        opt_state: A state that holds a [`ScaleByAdadeltaState`][] at any depth, or one for each
            group, as the state of [`param_groups`][] does.
        eps: The ε of the optimizer.

    Returns:
        A pytree like the parameters, of arrays of their shapes, in the dtype of the accumulators
        but at least float32. The real and the imaginary part of a complex rate are the rates of
        those parts. A parameter without accumulators, such as a frozen one, has an
        `optax.MaskedNode` in its place.

    Raises:
        ValueError: If there is no [`ScaleByAdadeltaState`][], or ``eps`` is below 0.
        TypeError: If ``eps`` is not a number.

    Examples:
        >>> import jax.numpy as jnp
        >>> from adadelta_jax import adadelta
        >>> from adadelta_jax.diagnostics import effective_learning_rate
        >>> optimizer = adadelta()
        >>> params = {"w": jnp.zeros(2)}
        >>> state = optimizer.init(params)
        >>> _, state = optimizer.update({"w": jnp.array([1.0, 1e-3])}, state, params)
        >>> print(effective_learning_rate(state)["w"].round(4))
        [0.0045 0.9959]

    Source: Zeiler (2012), [arXiv:1212.5701](https://arxiv.org/abs/1212.5701), section 4.3.
    """
    check_eps(eps)
    states = adadelta_states(opt_state)
    check_holds_accumulators(states)

    def rate(square_avg, acc_delta):
        if jnp.iscomplexobj(square_avg):
            parts = ((part(square_avg), part(acc_delta)) for part in (jnp.real, jnp.imag))
            return lax.complex(*(rate(*each) for each in parts))
        dtype = promote(square_avg.dtype, jnp.float32)
        u_eps, v_eps = (x.astype(dtype) + eps for x in (acc_delta, square_avg))
        return jnp.sqrt(u_eps) / jnp.sqrt(jnp.maximum(v_eps, jnp.finfo(dtype).tiny))

    rates = [
        jax.tree.map(rate, *map(values, (state.square_avg, state.acc_delta))) for state in states
    ]
    with merging_states():
        return functools.reduce(_merged, rates)


def _merged(tree: Any, other: Any) -> Any:
    """Two trees that are masked in different places as one."""
    if isinstance(tree, optax.MaskedNode):
        return other
    if isinstance(other, optax.MaskedNode) or jax.tree_util.all_leaves([tree]):
        return tree
    return jax.tree.map(_merged, tree, other, is_leaf=lambda node: node is not tree)


class Summary(NamedTuple):
    """Minimum, median and maximum of an array.

    Attributes:
        minimum: The smallest element, a float32 scalar.
        median: The middle element, or the mean of the middle two, a float32 scalar.
        maximum: The largest element, a float32 scalar.
    """

    minimum: jax.Array
    median: jax.Array
    maximum: jax.Array


def summary(tree: Any) -> Any:
    r"""Minimum, median and maximum of every array of a tree, cheap enough for every step.

    Use it on learning rates, updates or gradients, inside the jitted step. Minimum and maximum are
    exact. The median is exact for up to 16,384 elements. For more it is the median of a sample of
    16,384, at places that are as good as random and the same at every step. By Hoeffding's
    inequality

    $$
    P(|r - 1/2| > 0.02) \le 2 e^{-2 \cdot 16384 \cdot 0.02^2} < 5 \cdot 10^{-6}
    $$

    for its rank r, so that it lies between the 48th and the 52nd percentile for all except one
    array in 200,000.

    Args:
        tree: A pytree of numbers, or of real or complex arrays of any shape and sharding. A complex
            array counts as the real numbers that are its real and imaginary parts.

    Returns:
        A pytree like ``tree`` with a [`Summary`][] in the place of each array, and None and
        `optax.MaskedNode` where ``tree`` has them. All three numbers are NaN if the array holds NaN
        or is empty.

    Raises:
        TypeError: If a leaf is not an array or a number.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from adadelta_jax import adadelta
        >>> from adadelta_jax.diagnostics import effective_learning_rate, summary
        >>> optimizer = adadelta()
        >>> params = {"dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.zeros(2)}}
        >>> state = optimizer.init(params)
        >>> @jax.jit
        ... def step(grads, state):
        ...     _, state = optimizer.update(grads, state)
        ...     return state, summary(effective_learning_rate(state))
        >>> grads = {"dense": {"kernel": jnp.array([[1, 2], [4, 8]]) / 100, "bias": jnp.ones(2)}}
        >>> state, rates = step(grads, state)
        >>> for path, number in jax.tree.leaves_with_path(rates):
        ...     print(jax.tree_util.keystr(path, simple=True, separator="/"), f"{number:.4f}")
        dense/bias/minimum 0.0045
        dense/bias/median 0.0045
        dense/bias/maximum 0.0045
        dense/kernel/minimum 0.0558
        dense/kernel/median 0.1654
        dense/kernel/maximum 0.4166

    Source: the bound is Theorem 1 of
    [Hoeffding (1963)](https://doi.org/10.1080/01621459.1963.10500830).
    """
    check_arrays(tree)
    return jax.tree.map(lambda leaf: _summary(jnp.asarray(leaf)), tree)


@jax.jit  # so that leaves of one shape and dtype are traced once
def _summary(array: jax.Array) -> Summary:
    if array.size == 0:
        return Summary(*(jnp.full([], jnp.nan, jnp.float32),) * 3)

    parts = (array.real, array.imag) if jnp.iscomplexobj(array) else (array,)
    minimum = functools.reduce(jnp.minimum, map(jnp.min, parts))
    median = _median(jnp.stack([_sample(part) for part in parts]).astype(jnp.float32))
    maximum = functools.reduce(jnp.maximum, map(jnp.max, parts))
    has_nan = functools.reduce(jnp.logical_or, map(_has_nan, parts))
    return Summary(
        *(jnp.where(has_nan, jnp.nan, x.astype(jnp.float32)) for x in (minimum, median, maximum))
    )


def _has_nan(array: jax.Array) -> jax.Array:
    """Whether a real array holds NaN."""
    # `jnp.min` and `jnp.max` do not tell: the kernels of XLA's CPU backend skip NaN. A sum of
    # magnitudes is NaN exactly if one of them is, and is faster there than `jnp.any(jnp.isnan)`.
    return jnp.isnan(jnp.sum(jnp.abs(array)))


def _sample(array: jax.Array) -> jax.Array:
    """The array, or elements from random places if it has too many."""
    # Each device picks the elements that it holds, so that only these are sent.
    if array.size <= LARGEST_SAMPLE:
        return array
    places = tuple(
        hash_bits((LARGEST_SAMPLE,), fold_in(0, axis)) % jnp.uint32(size)
        for axis, size in enumerate(array.shape)
    )
    sharding = jax.typeof(array).sharding
    explicit = any(sharding.spec)  # otherwise the compiler decides
    out_sharding = sharding.update(spec=PartitionSpec()) if explicit else None
    return array.at[places].get(mode="promise_in_bounds", out_sharding=out_sharding)


def _median(array: jax.Array) -> jax.Array:
    """The exact median of float32 numbers without NaN."""
    # By bisection, which XLA's CPU backend runs faster than a sort. The bit patterns of floats are
    # integers in the same order, once all bits except the sign are inverted in negative ones. So 32
    # times the interval that holds the lower middle number is halved, by counting the numbers
    # in its lower half.

    def reordered(patterns):
        return patterns ^ ((patterns >> 31) & 0x7FFFFFFF)

    numbers = reordered(lax.bitcast_convert_type(array, jnp.int32))
    rank = (array.size + 1) // 2  # of the lower middle number

    def halve(_, interval):
        low, high = interval
        middle = (low & high) + ((low ^ high) >> 1)  # their mean rounded down, without overflow
        below = jnp.sum(numbers <= middle) >= rank
        return jnp.where(below, low, middle + 1), jnp.where(below, middle, high)

    lower, _ = lax.fori_loop(0, 32, halve, (jnp.min(numbers), jnp.max(numbers)))
    above = jnp.min(jnp.where(numbers > lower, numbers, jnp.max(numbers)))
    upper = jnp.where(jnp.sum(numbers <= lower) > array.size // 2, lower, above)
    lower, upper = (lax.bitcast_convert_type(reordered(x), jnp.float32) for x in (lower, upper))
    return lower / 2 + upper / 2
