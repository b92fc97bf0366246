"""Whatever `optax.adadelta` takes, this package takes, with the same numbers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.core import freeze
from hypothesis import given, note
from hypothesis import strategies as st

import adadelta_jax
from adadelta_jax import adadelta, scale_by_adadelta, with_step_hooks
from tests.clients.optax_wrappers import WRAPPERS
from tests.properties.strategies import examples

STEPS = 3


class Pair(NamedTuple):
    """A node of a tree."""

    left: Any
    right: Any


class Module(eqx.Module):
    """A node of a tree that can be called, with a field that is not in the tree."""

    inner: Any
    name: str = eqx.field(static=True, default="module")

    def __call__(self):
        raise AssertionError("a tree is not a function")


# Leaves that are trained, by how a user may hold them, from an array of float32.
TRAINED = {
    "a JAX array": jnp.asarray,
    "a NumPy array": np.asarray,
    "a NumPy array of float64": np.float64,
    "a number": lambda array: float(array.sum()),
    "a NumPy number": lambda array: np.float32(array.sum()),
    "a weak JAX number": lambda array: jnp.asarray(float(array.sum())),
    "a box": lambda array: nn.Partitioned(jnp.asarray(array), names=(None,) * array.ndim),
    "a logical box": lambda array: nn.LogicallyPartitioned(
        jnp.asarray(array), names=("axis",) * array.ndim
    ),
}
# Leaves of a model that are not: `eqx.is_inexact_array` filters them out.
STATIC = {
    "a function": jnp.tanh,
    "a string": "relu",
    "an integer": 3,
    "a flag": True,
    "an array of integers": jnp.arange(3),
    "a NumPy counter": np.int32(4),
    "a key": jax.random.key(0),
}
SHAPES = [(), (3,), (2, 3), (0,), (2, 1, 2)]
NODES = [
    lambda children: dict(zip("abc", children, strict=False)),
    lambda children: freeze(dict(zip("cab", children, strict=False))),
    list,
    tuple,
    lambda children: Pair(*children[:2]) if len(children) > 1 else Pair(*children, None),
    lambda children: Module(children[0]),
]


@st.composite
def trees(draw, leaves, depth=2):
    """A tree with 1 to 3 children a node, of these leaves and None."""
    if depth == 0 or draw(st.integers(0, 3)) == 0:
        return draw(leaves | st.none()) if depth < 2 else draw(leaves)
    children = draw(st.lists(trees(leaves, depth - 1), min_size=1, max_size=3))
    return draw(st.sampled_from(NODES))(children)


@st.composite
def trained(draw):
    shape = draw(st.sampled_from(SHAPES))
    numbers = st.floats(-4, 4, width=32, allow_subnormal=False)
    size = int(np.prod(shape))
    array = np.float32(draw(st.lists(numbers, min_size=size, max_size=size))).reshape(shape)
    return draw(st.sampled_from(sorted(TRAINED))), array


class Case(NamedTuple):
    """A model, which leaves of it are trained, and how `update` is called."""

    model: Any
    call: str
    wrapper: str | None
    settings: Mapping[str, float]


CALLS = {
    "by position": lambda update, grads, state, params: update(grads, state, params),
    "by name": lambda update, grads, state, params: update(
        updates=grads, state=state, params=params
    ),
    "with NumPy gradients": lambda update, grads, state, params: update(
        jax.tree.map(np.asarray, grads), state, params
    ),
    "with a loss": lambda update, grads, state, params: optax.with_extra_args_support(
        optax.GradientTransformationExtraArgs(lambda _: None, update)
    ).update(grads, state, params, value=jnp.float32(1)),
    "jitted": lambda update, grads, state, params: jax.jit(update)(grads, state, params),
}
# Those that need nothing but gradients and parameters, and have no compiled conditions.
PLAIN_WRAPPERS = [
    *("chain, before", "chain, behind", "named_chain", "masked", "partition", "inject_hyperparams"),
    *("flatten", "with_extra_args_support", "schedule_free", "split_real_and_imaginary"),
]


def cases(leaves, wrappers=(None, None, *PLAIN_WRAPPERS)):
    return st.builds(
        Case,
        trees(leaves),
        st.sampled_from(sorted(CALLS)),
        st.sampled_from(wrappers),
        st.fixed_dictionaries(
            {"learning_rate": st.sampled_from([1.0, 0.1])},
            optional={
                "rho": st.sampled_from([0.5, 0.95]),
                "eps": st.sampled_from([1e-4, 1e-8]),
                "weight_decay": st.just(0.1),
            },
        ),
    )


def is_drawn(node):
    return isinstance(node, tuple) and len(node) == 2 and node[0] in (*TRAINED, *STATIC)


def model_of(drawn):
    """The tree with its leaves as a user holds them."""
    return jax.tree.map(
        lambda leaf: TRAINED[leaf[0]](leaf[1]) if leaf[0] in TRAINED else STATIC[leaf[0]],
        drawn,
        is_leaf=is_drawn,
    )


def trained_part(drawn):
    """The tree with None for every leaf that is not trained, as Equinox filters it."""
    return model_of(
        jax.tree.map(lambda leaf: leaf if leaf[0] in TRAINED else None, drawn, is_leaf=is_drawn)
    )


def outcome(make, case, to_init, params):
    """The updates of all steps, or the error."""
    optimizer = make(**case.settings)
    if case.wrapper is not None:
        optimizer = WRAPPERS[case.wrapper](optimizer)
    try:
        state, after = optimizer.init(to_init), []
        for step in range(STEPS):
            grads = jax.tree.map(lambda leaf, step=step: leaf * 0.5 + (step - 1), to_init)
            updates, state = CALLS[case.call](optimizer.update, grads, state, params)
            after.append(updates)
        return after
    except Exception as error:
        return error


def assert_same_updates(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for mine, other in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        assert jnp.result_type(mine) == jnp.result_type(other)
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)


def assert_own_words(error):
    """The error was raised in this package, as a ValueError or TypeError."""
    assert isinstance(error, (ValueError, TypeError)), repr(error)
    traceback = error.__traceback__
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    raised_in = Path(traceback.tb_frame.f_code.co_filename)
    assert raised_in.is_relative_to(Path(adadelta_jax.__file__).parent), repr(error)


def ours_with_hooks(**settings):
    return with_step_hooks(adadelta(**settings), pre_step=lambda *_: None)


def ours_by_parts(learning_rate, weight_decay=0.0, **settings):
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        scale_by_adadelta(**settings),
        optax.scale_by_learning_rate(learning_rate),
    )


MAKES = st.sampled_from([adadelta, ours_with_hooks, ours_by_parts])


@examples(150)
@given(cases(trained()), MAKES)
def test_a_tree_that_optax_trains_is_trained_with_the_same_numbers(case, make):
    params = model_of(case.model)
    theirs = outcome(optax.adadelta, case, params, params)
    ours = outcome(make, case, params, params)
    note(repr(theirs))
    if isinstance(theirs, Exception):
        assert type(ours) is type(theirs), repr(ours)
    else:
        assert_same_updates(ours, theirs)


with_static = trained() | st.sampled_from(sorted(STATIC)).map(lambda name: (name, None))


@examples(100)
@given(cases(with_static, wrappers=(None, None, "chain, behind", "chain, before")), MAKES)
def test_a_whole_model_that_optax_trains_is_trained_with_the_same_numbers(case, make):
    """`init` takes its arrays, `update` all of it."""
    to_init, params = trained_part(case.model), model_of(case.model)
    theirs = outcome(optax.adadelta, case, to_init, params)
    ours = outcome(make, case, to_init, params)
    note(repr(theirs))
    if not isinstance(theirs, Exception):
        assert_same_updates(ours, theirs)
    elif isinstance(ours, Exception):
        assert type(ours) is type(theirs) or isinstance(ours, (TypeError, ValueError)), repr(ours)


@examples(100)
@given(cases(with_static, wrappers=(None,)))
def test_a_tree_that_cannot_be_trained_is_refused_in_own_words(case):
    """`init` takes all of the model."""
    params = model_of(case.model)
    theirs = outcome(optax.adadelta, case, params, params)
    ours = outcome(adadelta, case, params, params)
    note(repr(theirs))
    if isinstance(ours, Exception):
        assert_own_words(ours)
        has_static = len(jax.tree.leaves(params)) > len(jax.tree.leaves(trained_part(case.model)))
        assert has_static, "refused though all of it can be trained"
    else:
        assert_same_updates(ours, theirs)
