"""Messages name the leaves of a tree as users write them, and say where two trees differ."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from adadelta_jax import adadelta, param_groups
from tests.refusals import OPTIMIZER, assert_refused, each_refusal

VECTOR = jnp.ones(2)


def update(grads, params):
    """A step with gradients for an optimizer of other parameters."""
    return lambda: OPTIMIZER.update(grads, OPTIMIZER.init(params))


def one_too_long(params):
    """Gradients whose shapes are wrong, so that an error names the first."""
    return jax.tree.map(lambda p: jnp.ones((*p.shape, 1)), params)


def nnx_state(layer):
    return nnx.state(layer, nnx.Param)


LINEAR = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
NAMES = {
    name: (
        update(one_too_long(params), params),
        ValueError,
        f"the gradient of {name} has shape {(*shape, 1)}, but the accumulators have shape {shape}",
    )
    for name, params, shape in (
        ("the parameter", VECTOR, (2,)),
        ("dense/kernel", {"dense": {"kernel": VECTOR}}, (2,)),
        ("layers/0/1", {"layers": [(None, VECTOR)]}, (2,)),
        ("0/mu/w", (optax.ScaleByAdamState(None, {"w": VECTOR}, None),), (2,)),
        ("bias", nnx_state(LINEAR), (3,)),
        ("layers/0/bias", nnx_state(nnx.Sequential(LINEAR)), (3,)),
    )
}

NO_MATCH = "the gradients do not match the accumulators:"
NO_GRADIENT = "(None stands for no gradient)"
DIFFERENCES = {
    **{
        f"{count} leaves too few": (
            update([], [VECTOR] * count),
            ValueError,
            f"{NO_MATCH} they lack {listed} {NO_GRADIENT}",
        )
        for count, listed in (
            (1, "0"),
            (8, "0, 1, 2, 3, 4, 5, 6, 7"),
            (9, "0, 1, 2, 3, 4, 5, 6, 7 and 1 more"),
            (20, "0, 1, 2, 3, 4, 5, 6, 7 and 12 more"),
        )
    },
    "a leaf too few and one too many": (
        update({"a": VECTOR, "c": VECTOR}, {"a": VECTOR, "b": VECTOR}),
        ValueError,
        f"{NO_MATCH} they lack b {NO_GRADIENT} and they have c, which the accumulators lack",
    ),
    "a leaf of None, which is not lacking": (
        update({"a": None}, {"a": VECTOR, "b": VECTOR}),
        ValueError,
        f"{NO_MATCH} they lack b {NO_GRADIENT}",
    ),
    "the same names in another container": (
        update((VECTOR, VECTOR), [VECTOR, VECTOR]),
        ValueError,
        f"{NO_MATCH} they are a PyTreeDef((*, *)), the accumulators a PyTreeDef([*, *])",
    ),
}

PARAMS = {"a": {"b": VECTOR, "c": VECTOR}, "d": {"e": VECTOR}}
PREFIXES = {
    "a label for a branch, and one for no parameter": (
        lambda: param_groups({"x": {}}, {"a": "x", "d": {"f": "x"}}).init(PARAMS),
        ValueError,
        "the labels do not match the parameters: they lack d/e and they have d/f, which the "
        "parameters lack",
    ),
    "ten parameters under one label": (
        lambda: param_groups({"b": {}}, "a").init([VECTOR] * 10),
        ValueError,
        "no group for the label 'a' of 0, 1, 2, 3, 4, 5, 6, 7 and 2 more: the groups are 'b'",
    ),
    "a boolean for a branch, and one for no parameter": (
        lambda: adadelta(weight_decay=0.1, weight_decay_mask={"a": True, "d": {"f": False}}).init(
            PARAMS
        ),
        ValueError,
        "weight_decay_mask: the booleans do not match the parameters: they lack d/e and they have "
        "d/f, which the parameters lack",
    ),
}


@each_refusal(NAMES | DIFFERENCES | PREFIXES)
def test_a_message_says_which_leaf_and_where_trees_differ(call, error, message):
    assert_refused(call, error, message)
