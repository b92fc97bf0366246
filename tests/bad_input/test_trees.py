"""Wrong parameters, gradients and states, and the words of their refusal.

What tests/test_validation.py has is not here again.
"""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from adadelta_jax import (
    adadelta,
    param_groups,
    scale_by_adadelta,
)
from tests.bad_input.refusals import (
    OPTIMIZER,
    PARAMS,
    SCALE_STATE,
    STATE,
    assert_refused,
    cut,
    with_kernel,
)

NO_GRADIENT = (
    "which has no gradient: use floating-point or complex parameters, or leave it out with "
    "optax.masked"
)
OTHER_DTYPE = "it must be one of float16, bfloat16, float32, float64, complex64, complex128"
LACKING = "they lack dense/bias, dense/kernel (None stands for no gradient)"

TREES = {
    "init, a number": (
        lambda: adadelta().init(3),
        TypeError,
        f"the parameter has dtype int32, {NO_GRADIENT}",
    ),
    "init, a string": (
        lambda: scale_by_adadelta().init({"w": "x"}),
        TypeError,
        "parameter w must be an array, got str",
    ),
    "init, an object": (
        lambda: adadelta().init({"w": np.array(None)}),
        TypeError,
        "parameter w must be an array, got ndarray of object",
    ),
    "update, None as gradients": (
        lambda: OPTIMIZER.update(None, STATE, PARAMS),
        ValueError,
        f"the gradients do not match the parameters: {LACKING} and they have the parameter, which "
        "the parameters lack",
    ),
    "update, a masked gradient": (
        lambda: OPTIMIZER.update(with_kernel(optax.MaskedNode()), STATE, PARAMS),
        ValueError,
        "the gradients do not match the parameters: they lack dense/kernel "
        "(None stands for no gradient)",
    ),
    "update, u of another shape": (
        lambda: scale_by_adadelta().update(PARAMS, SCALE_STATE._replace(acc_delta=cut(PARAMS))),
        ValueError,
        "acc_delta of dense/bias has shape (1,), but square_avg has shape (2,)",
    ),
    "update, params without a leaf where decay needs them": (
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
    "init, a tensor": (
        lambda: OPTIMIZER.init({"w": torch.ones(2)}),
        TypeError,
        "parameter w must be an array, got Tensor",
    ),
    "init, a dtype that JAX lacks": (
        lambda: OPTIMIZER.init({"w": np.ones(2, np.longdouble)}),
        TypeError,
        f"parameter w has dtype float128: {OTHER_DTYPE}",
    ),
    "init, 8-bit floats": (
        lambda: OPTIMIZER.init({"w": jnp.ones(2, jnp.float8_e4m3fn)}),
        TypeError,
        f"parameter w has dtype float8_e4m3fn: {OTHER_DTYPE}",
    ),
    "init, keys that have no order": (
        lambda: OPTIMIZER.init({1: jnp.ones(1), "a": jnp.ones(1)}),
        ValueError,
        "params is no tree that JAX can walk through: Comparator raised exception while sorting "
        "pytree dictionary keys.",
    ),
    "update, a tensor": (
        lambda: OPTIMIZER.update(with_kernel(torch.ones(3, 2)), STATE, PARAMS),
        TypeError,
        "the gradient of dense/kernel must be an array, got Tensor",
    ),
    "update, an object": (
        lambda: OPTIMIZER.update(with_kernel(object), STATE, PARAMS),
        TypeError,
        "the gradient of dense/kernel must be an array, got type",
    ),
    "update, text where it climbs": (
        lambda: adadelta(maximize=True).update(with_kernel("x"), STATE, PARAMS),
        TypeError,
        "the gradient of dense/kernel must be an array, got str",
    ),
    "update without params, text where it climbs": (
        lambda: adadelta(maximize=True).update(with_kernel("x"), STATE),
        TypeError,
        "the gradient of dense/kernel must be an array, got str",
    ),
    "update of the part, the state of the whole": (
        lambda: scale_by_adadelta().update(PARAMS, STATE),
        TypeError,
        "state must be that of scale_by_adadelta, as init makes it, got tuple",
    ),
    "update, the state of a chain of others": (
        lambda: OPTIMIZER.update(PARAMS, optax.sgd(0.1, 0.9).init(PARAMS), PARAMS),
        TypeError,
        "state must be that of adadelta, as init makes it, got tuple",
    ),
    "update, a dtype that JAX lacks": (
        lambda: OPTIMIZER.update(with_kernel(np.ones((3, 2), np.longdouble)), STATE, PARAMS),
        TypeError,
        f"the gradient of dense/kernel has dtype float128: {OTHER_DTYPE}",
    ),
    "update, no state": (
        lambda: OPTIMIZER.update(PARAMS, None, PARAMS),
        TypeError,
        "state must be that of adadelta, as init makes it, got None",
    ),
    "update, the state of another": (
        lambda: OPTIMIZER.update(PARAMS, SCALE_STATE, PARAMS),
        TypeError,
        "state must be that of adadelta, as init makes it, got ScaleByAdadeltaState",
    ),
    "update of groups, no state": (
        lambda: param_groups({"a": {}}, "a").update(PARAMS, (), PARAMS),
        TypeError,
        "state must be that of param_groups, as init makes it, got ()",
    ),
    "update, u of another tree": (
        lambda: scale_by_adadelta().update(PARAMS, SCALE_STATE._replace(acc_delta=3)),
        ValueError,
        "state holds square_avg of dense/bias, dense/kernel, but no acc_delta",
    ),
    "update, params that are none": (
        lambda: OPTIMIZER.update(PARAMS, STATE, 3),
        ValueError,
        "the gradients do not match the parameters: they lack the parameter (None stands for no "
        "gradient) and they have dense/bias, dense/kernel, which the parameters lack",
    ),
    "update, params of another shape": (
        lambda: OPTIMIZER.update(PARAMS, STATE, cut(PARAMS)),
        ValueError,
        "the gradient of dense/bias has shape (2,), but the parameters have shape (1,)",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), TREES.values(), ids=TREES)
def test_a_wrong_argument_is_refused_in_these_words(call, error, message):
    assert_refused(call, error, message)
