"""Parameters and gradients that do not fit are refused by name."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import sparse

from adadelta_jax import adadelta, scale_by_adadelta
from adadelta_jax.diagnostics import summary
from tests.refusals import (
    OPTIMIZER,
    PARAMS,
    STATE,
    assert_refused,
    cut,
    each_refusal,
    with_kernel,
)

NO_GRADIENT = (
    "which has no gradient: use floating-point or complex parameters, or leave it out with "
    "optax.masked"
)
OTHER_DTYPE = "it must be one of float16, bfloat16, float32, float64, complex64, complex128"
LONG_DOUBLE = np.dtype(np.longdouble)


def init(params, optimizer=OPTIMIZER):
    return lambda: optimizer.init(params)


PARAMETERS = {
    **{
        f"{dtype} parameters": (
            init({"embedding": [jnp.ones(2), jnp.ones(2, dtype)]}),
            TypeError,
            f"parameter embedding/1 has dtype {dtype}, {NO_GRADIENT}",
        )
        for dtype in ("int32", "uint8", "bool")
    },
    "a random key": (
        init({"key": jax.random.key(0)}),
        TypeError,
        f"parameter key has dtype key<fry>, {NO_GRADIENT}",
    ),
    "a number": (init(3), TypeError, f"the parameter has dtype int32, {NO_GRADIENT}"),
    "text": (
        init({"w": "x"}, scale_by_adadelta()),
        TypeError,
        "parameter w must be an array, got str: use floating-point or complex parameters, or "
        "leave it out with optax.masked",
    ),
    "an array of objects": (
        init({"w": np.array(None)}),
        TypeError,
        "parameter w must be an array, got ndarray of object: "
        "use floating-point or complex parameters, or leave it out with optax.masked",
    ),
    "a dtype that JAX lacks": (
        init({"w": np.ones(2, LONG_DOUBLE)}),
        TypeError,
        f"parameter w has dtype {LONG_DOUBLE}: {OTHER_DTYPE}",
    ),
    "8-bit floats": (
        init({"w": jnp.ones(2, jnp.float8_e4m3fn)}),
        TypeError,
        f"parameter w has dtype float8_e4m3fn: {OTHER_DTYPE}",
    ),
    "keys that have no order": (
        init({1: jnp.ones(1), "a": jnp.ones(1)}),
        ValueError,
        re.compile("params is no tree that JAX can walk through: .+"),
    ),
    "text to summarise": (
        lambda: summary({"w": "text"}),
        TypeError,
        "w must be an array, got str",
    ),
}


def update(grads, params=PARAMS, state=STATE, optimizer=OPTIMIZER):
    return lambda: optimizer.update(grads, state, params)


def decaying(weight_decay=0.1, **settings):
    optimizer = adadelta(weight_decay=weight_decay, **settings)
    return {"optimizer": optimizer, "state": optimizer.init(PARAMS)}


CLIMBING = adadelta(maximize=True)
KERNEL, BIAS = PARAMS["dense"]["kernel"], PARAMS["dense"]["bias"]
LACKING = "they lack dense/bias, dense/kernel (None stands for no gradient)"
HALF_FROZEN = {"frozen": None, "free": BIAS}
TWO = {"first": BIAS, "second": BIAS}
# Refused with and without the parameters; the words name the parameters or the accumulators.
MISMATCHES = {
    "a gradient too few": (
        {"dense": {"kernel": KERNEL}},
        ValueError,
        "the gradients do not match the {like}: they lack dense/bias (None stands for no gradient)",
    ),
    "a gradient too many": (
        PARAMS | {"head": jnp.ones(1)},
        ValueError,
        "the gradients do not match the {like}: they have head, which the {like} lack",
    ),
    "a transposed gradient": (
        with_kernel(jnp.ones((2, 3))),
        ValueError,
        "the gradient of dense/kernel has shape (2, 3), but the {like} have shape (3, 2)",
    ),
    "an integer gradient": (
        with_kernel(jnp.ones((3, 2), int)),
        TypeError,
        "the gradient of dense/kernel has dtype int32: it must be floating-point or complex",
    ),
    "a complex gradient": (
        with_kernel(jnp.ones((3, 2), complex)),
        TypeError,
        "the gradient of dense/kernel is complex, but the {like} are real",
    ),
    "a gradient of text": (
        with_kernel("x"),
        TypeError,
        "the gradient of dense/kernel must be an array, got str",
    ),
}
GRADIENTS = {
    **{
        f"{name}, {'without' if params is None else 'with'} parameters": (
            update(grads, params),
            error,
            message.format(like=like),
        )
        for name, (grads, error, message) in MISMATCHES.items()
        for params, like in ((None, "accumulators"), (PARAMS, "parameters"))
    },
    **{
        f"a sparse gradient, weight decay {weight_decay}": (
            update(with_kernel(sparse.BCOO.fromdense(KERNEL)), **decaying(weight_decay)),
            TypeError,
            "the gradient of dense/kernel is sparse (BCOO): Adadelta needs a dense one, as "
            "grad.todense() gives",
        )
        for weight_decay in (0.0, 0.1)
    },
    **{
        f"text to climb, {'without' if params is None else 'with'} parameters": (
            update(with_kernel("x"), params, optimizer=CLIMBING),
            TypeError,
            "the gradient of dense/kernel must be an array, got str",
        )
        for params in (None, PARAMS)
    },
    "None as gradients": (
        update(None),
        ValueError,
        f"the gradients do not match the parameters: {LACKING} and they have the parameter, which "
        "the parameters lack",
    ),
    "a masked gradient": (
        update(with_kernel(optax.MaskedNode())),
        TypeError,
        "the gradient of dense/kernel must be an array, got MaskedNode",
    ),
    "an object": (
        update(with_kernel(object)),
        TypeError,
        "the gradient of dense/kernel must be an array, got type",
    ),
    "a gradient of a dtype that JAX lacks": (
        update(with_kernel(np.ones((3, 2), LONG_DOUBLE))),
        TypeError,
        f"the gradient of dense/kernel has dtype {LONG_DOUBLE}: {OTHER_DTYPE}",
    ),
    "a gradient of a parameter that is None": (
        update(
            {"frozen": BIAS, "free": BIAS},
            None,
            scale_by_adadelta().init(HALF_FROZEN),
            scale_by_adadelta(),
        ),
        ValueError,
        "frozen has a gradient, but no accumulators",
    ),
    "a wrong gradient after None": (
        update({"first": None, "second": jnp.ones(3)}, None, OPTIMIZER.init(TWO)),
        ValueError,
        "the gradient of second has shape (3,), but the accumulators have shape (2,)",
    ),
    "a bare array": (
        update(jnp.ones(3), None, OPTIMIZER.init(BIAS)),
        ValueError,
        "the gradient of the parameter has shape (3,), but the accumulators have shape (2,)",
    ),
}
PARAMETERS_OF_A_STEP = {
    **{
        f"decay without parameters, decoupled={decoupled}": (
            update(PARAMS, None, **decaying(decoupled_weight_decay=decoupled)),
            ValueError,
            "weight_decay needs the parameters: call update(grads, state, params), got params=None",
        )
        for decoupled in (False, True)
    },
    "no parameters for the decay": (
        update(PARAMS, {}, **decaying()),
        ValueError,
        "the gradients do not match the parameters: they have dense/bias, dense/kernel, which the "
        "parameters lack",
    ),
    "a parameter of None for the decay": (
        update(PARAMS, with_kernel(None), **decaying()),
        ValueError,
        "the gradient of dense/kernel has shape (3, 2), but the parameters have shape ()",
    ),
    "a number as parameters": (
        update(PARAMS, 3),
        ValueError,
        "the gradients do not match the parameters: they lack the parameter (None stands for no "
        "gradient) and they have dense/bias, dense/kernel, which the parameters lack",
    ),
    "parameters of another shape": (
        update(PARAMS, cut(PARAMS)),
        ValueError,
        "the gradient of dense/bias has shape (2,), but the parameters have shape (1,)",
    ),
}


@each_refusal(PARAMETERS | GRADIENTS | PARAMETERS_OF_A_STEP)
def test_a_tree_that_does_not_fit_is_refused_in_these_words(call, error, message):
    assert_refused(call, error, message)
