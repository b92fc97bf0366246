"""Wrong arguments of an optimizer, its state and its shardings, and the words of their refusal.

What tests/test_validation.py and the tests of the single files have is not here again.
"""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from jax.sharding import NamedSharding, PartitionSpec

import adadelta_jax
from adadelta_jax import (
    adadelta,
    carry_over_state,
    diagnostics,
    label_by_path,
    param_groups,
    scale_by_adadelta,
    sharding,
    torch_interop,
    with_step_hooks,
)
from adadelta_jax.diagnostics import effective_learning_rate
from adadelta_jax.sharding import state_shardings
from tests.bad_input.refusals import (
    EVERYWHERE,
    OPTIMIZER,
    PARAMS,
    SCALE_STATE,
    STATE,
    assert_refused,
    cut,
    with_kernel,
)

A_NUMBER = "must be a number or a 0-d array, got"
A_NUMBER_OR_SCHEDULE = "must be a number, a 0-d array or a schedule, got"
DTYPES = "accumulator_dtype must be None or one of float32, float64, bfloat16, float16, int8, got "
NO_GRADIENT = (
    "which has no gradient: use floating-point or complex parameters, or leave it out with "
    "optax.masked"
)
NO_STATE = "holds no ScaleByAdadeltaState: pass the state of an optimizer made with adadelta"
LACKING = (
    "they lack dense/bias, dense/kernel (None stands for no gradient) and they have the parameter, "
    "which the"
)

NOT_NUMBERS = ({}, np.ones(1), jnp.ones(1), np.array(None), 1j, jnp.array(1j), np.str_("1"))
SETTINGS = {
    f"{name}={value!r}": (
        lambda name=name, value=value: adadelta(**{name: value}),
        TypeError,
        f"{name} {expected} {value!r}",
    )
    for name, expected in (
        ("learning_rate", A_NUMBER_OR_SCHEDULE),
        ("weight_decay", A_NUMBER_OR_SCHEDULE),
        ("rho", A_NUMBER),
        ("eps", A_NUMBER),
    )
    for value in (*NOT_NUMBERS, torch.ones(1), jax.ShapeDtypeStruct((), jnp.float32))
}
FLAGS = {
    "maximize, text": (
        lambda: adadelta(maximize="no"),
        TypeError,
        "maximize must be True or False, got 'no'",
    ),
    "decoupled_weight_decay, None": (
        lambda: adadelta(decoupled_weight_decay=None),
        TypeError,
        "decoupled_weight_decay must be True or False, got None",
    ),
}
ACCUMULATOR_DTYPES = {
    f"accumulator_dtype={value!r}": (
        lambda value=value: scale_by_adadelta(accumulator_dtype=value),
        error,
        f"{DTYPES}{got}",
    )
    for value, error, got in (
        (0, TypeError, "0"),
        ("", TypeError, "''"),
        (True, TypeError, "True"),
        ([], ValueError, "void"),
        (int, ValueError, "int64"),
        ("complex64", ValueError, "complex64"),
        ("float8_e4m3fn", ValueError, "float8_e4m3fn"),
    )
}
TREES = {
    "init, a number": (
        lambda: adadelta().init(3),
        TypeError,
        f"parameter the parameter has dtype int64, {NO_GRADIENT}",
    ),
    "init, a string": (
        lambda: scale_by_adadelta().init({"w": "x"}),
        TypeError,
        f"parameter w has dtype <U1, {NO_GRADIENT}",
    ),
    "init, an object": (
        lambda: adadelta().init({"w": np.array(None)}),
        TypeError,
        f"parameter w has dtype object, {NO_GRADIENT}",
    ),
    "update, None as gradients": (
        lambda: OPTIMIZER.update(None, STATE, PARAMS),
        ValueError,
        f"the gradients do not match the accumulators: {LACKING} accumulators lack",
    ),
    "update, a masked gradient": (
        lambda: OPTIMIZER.update(with_kernel(optax.MaskedNode()), STATE, PARAMS),
        ValueError,
        "the gradients do not match the accumulators: they lack dense/kernel "
        "(None stands for no gradient)",
    ),
    "update, u of another shape": (
        lambda: scale_by_adadelta().update(PARAMS, SCALE_STATE._replace(acc_delta=cut(PARAMS))),
        ValueError,
        "acc_delta of dense/bias has shape (1,), but square_avg has shape (2,)",
    ),
    "update, params that are none": (
        lambda: adadelta(weight_decay=0.1).update(PARAMS, STATE, {}),
        ValueError,
        "the gradients do not match the parameters: they have dense/bias, dense/kernel, which the "
        "parameters lack",
    ),
    "update, params without a leaf": (
        lambda: adadelta(weight_decay=0.1).update(PARAMS, STATE, with_kernel(None)),
        ValueError,
        "dense/kernel has a gradient, but no parameters",
    ),
}
GROUPS = {
    "groups=None": (
        lambda: param_groups(None, "a"),
        TypeError,
        "groups must be a mapping from labels to settings, got None",
    ),
    "groups={}": (
        lambda: param_groups({}, "a").init(PARAMS),
        ValueError,
        "no group for the label 'a' of dense/bias, dense/kernel: the groups are ",
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
        ValueError,
        "zero_axis must be an axis of the mesh, one of 'data', got 3",
    ),
    "zero_axis, a tuple": (
        lambda: state_shardings(OPTIMIZER, PARAMS, EVERYWHERE, zero_axis=("data",)),
        ValueError,
        "zero_axis must be an axis of the mesh, one of 'data', got ('data',)",
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
}
TABLE = {**SETTINGS, **FLAGS, **ACCUMULATOR_DTYPES, **TREES, **GROUPS, **SHARDINGS}


@pytest.mark.parametrize(("call", "error", "message"), TABLE.values(), ids=TABLE)
def test_a_wrong_argument_is_refused_in_these_words(call, error, message):
    assert_refused(call, error, message)


PUBLIC = {
    name: getattr(module, name)
    for module in (adadelta_jax, torch_interop, sharding, diagnostics)
    for name in getattr(module, "__all__", dir(module))
    if not name.startswith("_") and callable(getattr(module, name))
    if getattr(module, name).__module__.startswith("adadelta_jax")
}


@pytest.mark.parametrize("name", PUBLIC)
def test_an_argument_too_few_or_too_many_is_named(name):
    parameters = inspect.signature(PUBLIC[name]).parameters.values()
    required = [parameter.name for parameter in parameters if parameter.default is parameter.empty]
    if required:
        with pytest.raises(TypeError, match=f"missing .* '{required[0]}'"):
            PUBLIC[name]()
    with pytest.raises(TypeError, match="got an unexpected keyword argument 'momentum'"):
        PUBLIC[name](momentum=0.9)
