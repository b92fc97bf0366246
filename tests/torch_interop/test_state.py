"""The state of a torch optimizer becomes accumulators and a count, or is refused."""

import jax
import numpy as np
import optax
import pytest

from adadelta_jax.torch_interop import optimizer_from_torch
from tests.refusals import (
    MAPPING,
    PARAMS,
    assert_refused,
    each_refusal,
    load_after,
    optim_state_dict,
)


def state_of(optim_state):
    _, opt_state = optimizer_from_torch(optim_state, PARAMS, MAPPING)
    return opt_state


@pytest.mark.parametrize(
    ("step", "count"),
    [(5, 5), (5.0, 5), (np.float32(5), 5), (np.array([5]), 5), (2.0**40, 2**31 - 1), (None, 0)],
)
def test_the_step_of_an_old_checkpoint_may_be_a_number_or_missing(step, count):
    optim_state = optim_state_dict()
    for entry in optim_state["state"].values():
        del entry["step"]
        if step is not None:
            entry["step"] = step
    del optim_state["param_groups"][0]["maximize"]
    assert optax.tree.get(state_of(optim_state), "count") == count


def test_steps_that_differ_become_the_largest():
    optim_state = optim_state_dict()
    optim_state["state"][1]["step"] = 5.0
    assert optax.tree.get(state_of(optim_state), "count") == 5


@pytest.mark.parametrize("entry", [None, {}], ids=["no entry", "an empty entry"])
def test_a_parameter_without_state_starts_from_zero(entry):
    optim_state = optim_state_dict()
    del optim_state["state"][1]
    if entry is not None:
        optim_state["state"][1] = entry
    with pytest.warns(UserWarning, match=r"^fc\.bias: without state"):
        opt_state = state_of(optim_state)
    square_avg = optax.tree.get(opt_state, "square_avg")["dense"]
    np.testing.assert_array_equal(square_avg["kernel"], np.ones((3, 2)))
    np.testing.assert_array_equal(square_avg["bias"], np.zeros(2))


def test_a_state_that_goes_by_names_is_found_by_them():
    optim_state = optim_state_dict()
    names = ["fc.bias", "fc.weight"]
    by_name = {
        "state": {name: optim_state["state"][list(MAPPING).index(name)] for name in names},
        "param_groups": [optim_state["param_groups"][0] | {"params": names}],
    }
    jax.tree.map(np.testing.assert_array_equal, state_of(by_name), state_of(optim_state))


def test_a_refused_state_dict_is_as_it_was():
    optim_state = optim_state_dict()
    del optim_state["state"][1]["square_avg"]
    kept = jax.tree.map(np.copy, optim_state)
    with pytest.raises(ValueError, match="it lacks square_avg"):
        state_of(optim_state)
    jax.tree.map(np.testing.assert_array_equal, optim_state, kept)


NO_WHOLE_NUMBER = "step of fc.weight must be a whole number of at least 0, got"
NO_ADADELTA = "is not of torch.optim.Adadelta:"


def load(**changes):
    """Load a state_dict after changes to the entry of fc.weight."""
    return load_after(lambda _, __, entry: entry.update(changes))


def load_instead(**changes):
    """Load a state_dict after changes to its two parts."""
    return load_after(lambda state_dict, *_: state_dict.update(changes))


REFUSALS = {
    "an optimizer": (
        lambda: state_of(...),
        TypeError,
        "optim_state_dict must be a dict, as optimizer.state_dict() gives, got ellipsis",
    ),
    "neither part": (
        lambda: state_of({}),
        ValueError,
        "optim_state_dict lacks state, param_groups: it is not that of a torch optimizer",
    ),
    "no state": (
        load_after(lambda state_dict, *_: state_dict.pop("state")),
        ValueError,
        "optim_state_dict lacks state: it is not that of a torch optimizer",
    ),
    "state, a list": (
        load_instead(state=[0, 1, 2]),
        TypeError,
        "state must be a dict of dicts, got list",
    ),
    "state=None": (
        load_instead(state=None),
        TypeError,
        "state must be a dict of dicts, got NoneType",
    ),
    "an entry of no parameter": (
        load_after(lambda state_dict, _, entry: state_dict["state"].update({7: entry})),
        ValueError,
        "the torch optimizer's state does not match its groups: no group has 7",
    ),
    **{
        f"an entry={value!r}": (
            load_after(lambda state_dict, *_, value=value: state_dict["state"].update({0: value})),
            TypeError,
            f"the state of fc.weight must be a dict, got {type(value).__name__}",
        )
        for value in (3, [], np.ones(3))
    },
    "no acc_delta": (
        load_after(lambda _, __, entry: entry.pop("acc_delta")),
        ValueError,
        f"the state of fc.weight {NO_ADADELTA} it lacks acc_delta",
    ),
    "the entry of another optimizer": (
        load(exp_avg=np.ones((2, 3), "f"), momentum=None),
        ValueError,
        f"the state of fc.weight {NO_ADADELTA} it has exp_avg, momentum",
    ),
    **{
        f"step={value!r}": (load(step=value), error, f"{words} {shown}")
        for value, error, words, shown in (
            (np.nan, ValueError, NO_WHOLE_NUMBER, "nan"),
            (np.inf, ValueError, NO_WHOLE_NUMBER, "inf"),
            (np.float32(0.5), ValueError, NO_WHOLE_NUMBER, "0.5"),
            (-1, ValueError, NO_WHOLE_NUMBER, "-1"),
            (1j, TypeError, "step of fc.weight must be a number, got", "1j"),
            ("7", TypeError, "step of fc.weight must be a number, got", "'7'"),
        )
    },
    "step, past all floats": (
        load(step=10**400),
        TypeError,
        f"step of fc.weight must be a number, got {10**400}",
    ),
    "square_avg=None": (
        load(square_avg=None),
        TypeError,
        "square_avg of fc.weight must be a tensor or an array, got NoneType",
    ),
    "square_avg, of itself": (
        load_after(lambda _, __, entry: entry.update(square_avg=entry)),
        TypeError,
        "square_avg of fc.weight must be a tensor or an array, got dict",
    ),
    "square_avg, a shape without numbers": (
        load(square_avg=jax.ShapeDtypeStruct((2, 3), "f")),
        TypeError,
        "square_avg of fc.weight must be a tensor or an array, got ShapeDtypeStruct",
    ),
    "square_avg, in the layout of Flax": (
        load(square_avg=np.ones((3, 2), "f")),
        ValueError,
        "square_avg of fc.weight has shape (3, 2), but dense/kernel of shape (3, 2) needs (2, 3) "
        "(torch numbers its state, and without param_names mapping must be in its order)",
    ),
    "square_avg, wider than its parameter": (
        load(square_avg=np.ones((2, 3))),
        ValueError,
        "square_avg of fc.weight is float64, which an accumulator of float32 cannot hold: "
        "pass the params that params_from_torch returns",
    ),
    "square_avg, a dtype that JAX lacks": (
        load(square_avg=np.ones((2, 3), np.longdouble)),
        TypeError,
        "square_avg of fc.weight is float128, which JAX does not have",
    ),
    "square_avg, below zero": (
        load(square_avg=np.full((2, 3), -1.0, "f")),
        ValueError,
        "square_avg of fc.weight must be at least 0, got -1",
    ),
    "acc_delta, minus infinity": (
        load(acc_delta=np.full((2, 3), -np.inf, "f")),
        ValueError,
        "acc_delta of fc.weight must be at least 0, got -inf",
    ),
}


@each_refusal(REFUSALS)
def test_a_wrong_state_is_refused_in_these_words(call, error, message):
    assert_refused(call, error, message)
