"""Wrong things in the state_dict of a torch optimizer, and the words of their refusal.

What the tests in tests/torch_interop have is not here again.
"""

import jax
import numpy as np
import pytest
import torch

from tests.bad_input.refusals import assert_refused, load_after

TABLE = {
    name: (load_after(damage), error, message)
    for name, damage, error, message in (
        (
            "state, a list",
            lambda state_dict, *_: state_dict.update(state=[0, 1, 2]),
            TypeError,
            "state must be a dict of dicts, got list",
        ),
        (
            "params, one twice",
            lambda state_dict, group, _: (group.update(params=[1, 1]), state_dict["state"].pop(0)),
            ValueError,
            "param_groups have 1 more than once",
        ),
        (
            "names for one group of two",
            lambda state_dict, group, _: (
                group.update(params=[0], param_names=["fc.bias"]),
                state_dict["param_groups"].append(
                    {key: group[key] for key in group if key != "param_names"} | {"params": [1]}
                ),
            ),
            ValueError,
            "param_groups[0] has param_names, but param_groups[1] has none",
        ),
        (
            "params, nested",
            lambda _, group, __: group.update(params=[[0], [1]]),
            TypeError,
            "params of param_groups[0] must be a list of numbers or names, got [[0], [1]]",
        ),
        (
            "lr, text",
            lambda _, group, __: group.update(lr="1"),
            TypeError,
            "param_groups[0]: lr must be a number, got '1'",
        ),
        (
            "a key that is a number",
            lambda _, group, __: group.update({3: 4}),
            ValueError,
            "param_groups[0] is not of torch.optim.Adadelta: it has 3",
        ),
        (
            "step=inf",
            lambda _, __, entry: entry.update(step=float("inf")),
            ValueError,
            "step of fc.weight must be a whole number of at least 0, got inf",
        ),
        (
            "step, complex",
            lambda _, __, entry: entry.update(step=1j),
            TypeError,
            "step of fc.weight must be a number, got 1j",
        ),
        (
            "square_avg=None",
            lambda _, __, entry: entry.update(square_avg=None),
            TypeError,
            "square_avg of fc.weight must be a tensor or an array, got NoneType",
        ),
        (
            "square_avg, of itself",
            lambda _, __, entry: entry.update(square_avg=entry),
            TypeError,
            "square_avg of fc.weight must be a tensor or an array, got dict",
        ),
        (
            "groups, of themselves",
            lambda state_dict, *_: state_dict["param_groups"].append(state_dict),
            ValueError,
            "param_groups[1] lacks params",
        ),
        (
            "state=None",
            lambda state_dict, *_: state_dict.update(state=None),
            TypeError,
            "state must be a dict of dicts, got NoneType",
        ),
        (
            "an entry that is a number",
            lambda state_dict, *_: state_dict["state"].update({0: 3}),
            TypeError,
            "the state of fc.weight must be a dict, got int",
        ),
        (
            "an entry that is a tensor",
            lambda state_dict, *_: state_dict["state"].update({0: np.ones(3)}),
            TypeError,
            "the state of fc.weight must be a dict, got ndarray",
        ),
        (
            "param_groups=3",
            lambda state_dict, *_: state_dict.update(param_groups=3),
            TypeError,
            "param_groups must be a list of dicts, got 3",
        ),
        (
            "params=3",
            lambda _, group, __: group.update(params=3),
            TypeError,
            "params of param_groups[0] must be a list of numbers or names, got 3",
        ),
        (
            "params, a tensor",
            lambda _, group, __: group.update(params=torch.arange(2)),
            TypeError,
            "params of param_groups[0] must be a list of numbers or names, "
            f"got {torch.arange(2)!r}",
        ),
        (
            "param_names=None",
            lambda _, group, __: group.update(param_names=None),
            TypeError,
            "param_names of param_groups[0] must be a list of torch names, got None",
        ),
        (
            "param_names, of lists",
            lambda _, group, __: group.update(param_names=[["a"], ["b"]]),
            TypeError,
            "param_names of param_groups[0] must be a list of torch names, got [['a'], ['b']]",
        ),
        (
            "lr=None",
            lambda _, group, __: group.update(lr=None),
            TypeError,
            "param_groups[0]: lr must be a number, got None",
        ),
        (
            "weight_decay, a function",
            lambda _, group, __: group.update(weight_decay=abs),
            TypeError,
            f"param_groups[0]: weight_decay must be a number, got {abs!r}",
        ),
        (
            "maximize, text",
            lambda _, group, __: group.update(maximize="no"),
            TypeError,
            "param_groups[0]: maximize must be True or False, got 'no'",
        ),
        (
            "maximize, two",
            lambda _, group, __: group.update(maximize=torch.ones(2)),
            TypeError,
            f"param_groups[0]: maximize must be True or False, got {np.ones(2, 'f')!r}",
        ),
        (
            "step, past all floats",
            lambda _, __, entry: entry.update(step=10**400),
            TypeError,
            f"step of fc.weight must be a number, got {10**400}",
        ),
        (
            "step, text",
            lambda _, __, entry: entry.update(step="7"),
            TypeError,
            "step of fc.weight must be a number, got '7'",
        ),
        (
            "square_avg, a dtype that JAX lacks",
            lambda _, __, entry: entry.update(square_avg=np.ones((2, 3), np.longdouble)),
            TypeError,
            "square_avg of fc.weight is float128, which JAX does not have",
        ),
        (
            "square_avg, below zero",
            lambda _, __, entry: entry.update(square_avg=np.full((2, 3), -1.0, np.float32)),
            ValueError,
            "square_avg of fc.weight must be at least 0, got -1",
        ),
        (
            "acc_delta, minus infinity",
            lambda _, __, entry: entry.update(acc_delta=torch.full((2, 3), -torch.inf)),
            ValueError,
            "acc_delta of fc.weight must be at least 0, got -inf",
        ),
        (
            "lr, a time",
            lambda _, group, __: group.update(lr=np.timedelta64(1)),
            TypeError,
            f"param_groups[0]: lr must be a number, got {np.array(np.timedelta64(1))!r}",
        ),
        (
            "maximize=None",
            lambda _, group, __: group.update(maximize=None),
            TypeError,
            "param_groups[0]: maximize must be True or False, got None",
        ),
        (
            "params, a dict",
            lambda _, group, __: group.update(params={0: 0, 1: 1}),
            TypeError,
            "params of param_groups[0] must be a list of numbers or names, got {0: 0, 1: 1}",
        ),
        (
            "an entry that is empty but no dict",
            lambda state_dict, *_: state_dict["state"].update({0: []}),
            TypeError,
            "the state of fc.weight must be a dict, got list",
        ),
        (
            "square_avg, a shape without numbers",
            lambda _, __, entry: entry.update(square_avg=jax.ShapeDtypeStruct((2, 3), "f")),
            TypeError,
            "square_avg of fc.weight must be a tensor or an array, got ShapeDtypeStruct",
        ),
    )
}


@pytest.mark.parametrize(("call", "error", "message"), TABLE.values(), ids=TABLE)
def test_a_wrong_state_dict_is_refused_in_these_words(call, error, message):
    assert_refused(call, error, message)
