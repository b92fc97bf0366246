"""Wrong arguments around an optimizer: groups, hooks, shardings, diagnostics; and their refusal.

What the tests of the single files have is not here again.
"""

import inspect

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from adadelta_jax import (
    adadelta,
    carry_over_state,
    label_by_path,
    param_groups,
    with_step_hooks,
)
from adadelta_jax.diagnostics import effective_learning_rate
from adadelta_jax.sharding import bytes_per_device, state_shardings
from tests.bad_input.refusals import (
    EVERYWHERE,
    OPTIMIZER,
    PARAMS,
    SCALE_STATE,
    STATE,
    assert_refused,
    with_kernel,
)

NO_STATE = "holds no ScaleByAdadeltaState: pass the state of an optimizer made with adadelta"
OPTIMIZER_EXPECTED = "optimizer must be an optax.GradientTransformation, got 3"
GROUPS = {
    "groups=None": (
        lambda: param_groups(None, "a"),
        TypeError,
        "groups must be a mapping from labels to settings, got None",
    ),
    "groups={}": (
        lambda: param_groups({}, "a"),
        ValueError,
        "groups must have a label at least, got {}",
    ),
    "a keyword that is a number": (
        lambda: param_groups({"a": {1: 2}}, "a"),
        TypeError,
        "group 'a' has 1, which adadelta does not take: it takes "
        + ", ".join(inspect.signature(adadelta).parameters),
    ),
    "labels=None": (
        lambda: param_groups({"a": {}}, None).init(PARAMS),
        ValueError,
        "the labels do not match the parameters: they lack dense/bias, dense/kernel",
    ),
    "labels of bytes": (
        lambda: param_groups({"a": {}}, b"a").init(PARAMS),
        TypeError,
        "the label of the parameter must be a string, got b'a'",
    ),
    "a function that returns no labels": (
        lambda: param_groups({"a": {}}, lambda _: 3).init(PARAMS),
        TypeError,
        "the label of the parameter must be a string, got 3",
    ),
    "an expression of bytes": (
        lambda: label_by_path({b"x": "a"}, "b"),
        TypeError,
        "rules: a regular expression must be a string, got b'x'",
    ),
    "a rule for no tree": (
        lambda: label_by_path({"kernel": "a"}, "b")(3),
        ValueError,
        "rules: 'kernel' matches no parameter: there are the parameter",
    ),
    "carry over from None": (
        lambda: carry_over_state(OPTIMIZER, PARAMS, None),
        ValueError,
        f"old_state {NO_STATE}; a checkpoint is to be restored into the structure of "
        "optimizer.init(params)",
    ),
    "carry over to a frozen one": (
        lambda: carry_over_state(optax.sgd(0.1), PARAMS, STATE),
        ValueError,
        "nothing to carry over: old_state holds accumulators of dense/bias, dense/kernel, none of "
        "which optimizer keeps for the parameters dense/bias, dense/kernel",
    ),
    "a hook that returns a number": (
        lambda: with_step_hooks(OPTIMIZER, pre_step=lambda *_: 3).update(PARAMS, STATE),
        ValueError,
        "pre_step must return a tree like the gradients, "
        "PyTreeDef({'dense': {'bias': *, 'kernel': *}}), or None, got PyTreeDef(*)",
    ),
    "hooks around a number": (lambda: with_step_hooks(3), TypeError, OPTIMIZER_EXPECTED),
    "a hook that returns objects": (
        lambda: with_step_hooks(OPTIMIZER, pre_step=lambda *_: with_kernel(object)).update(
            PARAMS, STATE, PARAMS
        ),
        TypeError,
        "pre_step must return arrays, but that of dense/kernel is a type",
    ),
    "carry over to a number": (
        lambda: carry_over_state(3, PARAMS, STATE),
        TypeError,
        OPTIMIZER_EXPECTED,
    ),
    "carry over no count": (
        lambda: carry_over_state(OPTIMIZER, PARAMS, SCALE_STATE._replace(count=None)),
        ValueError,
        "the count of old_state must be an integer scalar, got None",
    ),
    "carry over u that lacks a parameter": (
        lambda: carry_over_state(OPTIMIZER, PARAMS, SCALE_STATE._replace(acc_delta={})),
        ValueError,
        "old_state holds square_avg of dense/bias, dense/kernel, but no acc_delta",
    ),
    "a repetition past all numbers": (
        lambda: label_by_path({"a{99999999999}": "x"}, "y"),
        ValueError,
        "rules: 'a{99999999999}' is not a regular expression: the repetition number is too large",
    ),
    "parentheses past all depth": (
        lambda: label_by_path({"(" * 5000 + ")" * 5000: "x"}, "y"),
        ValueError,
        f"rules: {'(' * 5000 + ')' * 5000!r} is nested too deeply",
    ),
}
SHARDINGS = {
    "param_shardings=3": (
        lambda: state_shardings(OPTIMIZER, PARAMS, 3),
        TypeError,
        "the sharding of dense/bias must be a NamedSharding, got 3",
    ),
    "a sharding that does not divide": (
        lambda: state_shardings(
            OPTIMIZER, PARAMS, NamedSharding(EVERYWHERE.mesh, PartitionSpec("data"))
        ),
        ValueError,
        "dense/bias, of shape (2,), cannot be sharded as P('data',) over the mesh axes {'data': 8}",
    ),
    "zero_axis=3": (
        lambda: state_shardings(OPTIMIZER, PARAMS, EVERYWHERE, zero_axis=3),
        TypeError,
        "zero_axis must be the name of a mesh axis, got 3",
    ),
    "zero_axis, a tuple": (
        lambda: state_shardings(OPTIMIZER, PARAMS, EVERYWHERE, zero_axis=("data",)),
        TypeError,
        "zero_axis must be the name of a mesh axis, got ('data',)",
    ),
    "opt_state=None": (
        lambda: effective_learning_rate(None),
        ValueError,
        f"opt_state {NO_STATE} or scale_by_adadelta",
    ),
    "eps=nan": (
        lambda: effective_learning_rate(STATE, float("nan")),
        ValueError,
        "eps must be finite, got nan",
    ),
    "rates of u that lacks a parameter": (
        lambda: effective_learning_rate(SCALE_STATE._replace(acc_delta={})),
        ValueError,
        "opt_state holds square_avg of dense/bias, dense/kernel, but no acc_delta",
    ),
    "rates of two models": (
        lambda: effective_learning_rate((STATE, OPTIMIZER.init({"other": jnp.ones(2)}))),
        ValueError,
        "opt_state holds the states of several trees of parameters: pass one of them",
    ),
    "shardings for a number": (
        lambda: state_shardings(3, PARAMS, EVERYWHERE),
        TypeError,
        OPTIMIZER_EXPECTED,
    ),
    "shardings for text": (
        lambda: state_shardings(OPTIMIZER, {"w": "x"}, EVERYWHERE),
        TypeError,
        "w must be an array, got str",
    ),
    "zero_axis, a list": (
        lambda: state_shardings(OPTIMIZER, PARAMS, EVERYWHERE, zero_axis=["data"]),
        TypeError,
        "zero_axis must be the name of a mesh axis, got ['data']",
    ),
    "shardings over two meshes": (
        lambda: state_shardings(
            OPTIMIZER,
            PARAMS,
            {
                "dense": {
                    "kernel": EVERYWHERE,
                    "bias": EVERYWHERE.update(mesh=jax.sharding.AbstractMesh((4,), ("model",))),
                }
            },
        ),
        ValueError,
        "param_shardings must be on one mesh, got {'model': 4} for dense/bias and {'data': 8} for "
        "dense/kernel",
    ),
    "bytes sharded as a number": (
        lambda: bytes_per_device(PARAMS, 3),
        TypeError,
        "the sharding of dense/bias must be a NamedSharding, got 3",
    ),
    "bytes of a number": (
        lambda: bytes_per_device({"w": 3}, EVERYWHERE),
        TypeError,
        "w must be an array, got int",
    ),
}
TABLE = {**GROUPS, **SHARDINGS}


@pytest.mark.parametrize(("call", "error", "message"), TABLE.values(), ids=TABLE)
def test_a_wrong_argument_is_refused_in_these_words(call, error, message):
    assert_refused(call, error, message)
