"""Wrong settings of an optimizer, and the words of their refusal.

What tests/test_validation.py and the tests of the single files have is not here again.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from adadelta_jax import (
    adadelta,
    scale_by_adadelta,
)
from tests.bad_input.refusals import (
    PARAMS,
    assert_refused,
)

A_NUMBER = "must be a number or a 0-d array, got"
A_NUMBER_OR_SCHEDULE = "must be a number, a 0-d array or a schedule, got"
DTYPES = "accumulator_dtype must be None or one of float32, float64, bfloat16, float16, int8, got "
MASK_EXPECTED = "weight_decay_mask must be a tree of booleans like the parameters"


def decay(mask):
    return lambda: adadelta(weight_decay=0.1, weight_decay_mask=mask).init(PARAMS)


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
NUMBERS_AND_MASKS = {
    "a number past all floats": (
        lambda: adadelta(rho=10**400),
        TypeError,
        f"rho {A_NUMBER} {10**400}",
    ),
    "a tensor with a gradient": (
        lambda: adadelta(rho=torch.tensor(0.5, requires_grad=True)),
        TypeError,
        f"rho {A_NUMBER} tensor(0.5000, requires_grad=True)",
    ),
    "bytes": (lambda: adadelta(rho=b"1"), TypeError, f"rho {A_NUMBER} b'1'"),
    "text in an array": (
        lambda: adadelta(rho=np.array("0.5")),
        TypeError,
        f"rho {A_NUMBER} {np.array('0.5')!r}",
    ),
    "a time": (
        lambda: adadelta(rho=np.timedelta64(1)),
        TypeError,
        f"rho {A_NUMBER} {np.timedelta64(1)!r}",
    ),
    "a type as a schedule": (
        lambda: adadelta(learning_rate=str).update(PARAMS, adadelta(str).init(PARAMS)),
        TypeError,
        "learning_rate must return a number or a 0-d array, got '0'",
    ),
    "a schedule of vectors": (
        lambda: adadelta(lambda _: jnp.ones(3)).update(
            PARAMS, adadelta(lambda _: 1.0).init(PARAMS)
        ),
        TypeError,
        f"learning_rate must return a number or a 0-d array, got {jnp.ones(3)!r}",
    ),
    "a schedule of vectors for the decay": (
        lambda: adadelta(weight_decay=lambda _: jnp.ones(3)).update(
            PARAMS, adadelta(weight_decay=lambda _: 1.0).init(PARAMS), PARAMS
        ),
        TypeError,
        f"weight_decay must return a number or a 0-d array, got {jnp.ones(3)!r}",
    ),
    "a mask of text": (decay("kernel"), TypeError, f"{MASK_EXPECTED}, got 'kernel'"),
    "a mask that lacks a parameter": (
        decay({"dense": {"kernel": True}}),
        ValueError,
        "weight_decay_mask: the booleans do not match the parameters: they lack dense/bias",
    ),
    "a mask of an array": (
        decay(jnp.ones(3)),
        TypeError,
        f"{MASK_EXPECTED}, got {jnp.ones(3)!r}",
    ),
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
TABLE = {**SETTINGS, **NUMBERS_AND_MASKS, **FLAGS, **ACCUMULATOR_DTYPES}


@pytest.mark.parametrize(("call", "error", "message"), TABLE.values(), ids=TABLE)
def test_a_wrong_argument_is_refused_in_these_words(call, error, message):
    assert_refused(call, error, message)
