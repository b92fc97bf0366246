"""The parameter groups of a torch optimizer become an optimizer of this package, or are refused."""

import chex
import numpy as np
import pytest

from adadelta_jax import param_groups
from adadelta_jax.torch_interop import optimizer_from_torch, optimizer_to_torch
from tests.refusals import (
    MAPPING,
    PARAMS,
    assert_refused,
    each_refusal,
    load_after,
    optim_state_dict,
)


def test_groups_keep_their_own_settings():
    optim_state = optim_state_dict()
    (group,) = optim_state["param_groups"]
    optim_state["param_groups"] = [
        group | {"params": [0], "lr": 0.5},
        group | {"params": [1], "rho": 0.5, "maximize": True},
    ]
    optimizer, _ = optimizer_from_torch(optim_state, PARAMS, MAPPING)
    expected = param_groups(
        {"slow": {"learning_rate": 0.5}, "climbing": {"rho": 0.5, "maximize": True}},
        {"dense": {"kernel": "slow", "bias": "climbing"}},
    )
    updates, expected_updates = (
        each.update(PARAMS, each.init(PARAMS), PARAMS)[0] for each in (optimizer, expected)
    )
    chex.assert_trees_all_equal(updates, expected_updates)


@pytest.mark.parametrize("value", ["head", 0.1, None, {"a": [1]}, np.ones(2)], ids=str)
def test_a_group_may_hold_what_else_its_user_wants(value):
    optim_state = optim_state_dict()
    optim_state["param_groups"][0] |= {"name": value, "lr_scale": value, 3: value}
    optimizer, opt_state = optimizer_from_torch(optim_state, PARAMS, MAPPING)
    expected, _ = optimizer_from_torch(optim_state_dict(), PARAMS, MAPPING)
    chex.assert_trees_all_equal(
        optimizer.update(PARAMS, opt_state, PARAMS), expected.update(PARAMS, opt_state, PARAMS)
    )
    groups = optim_state["param_groups"]
    (group,) = optimizer_to_torch(opt_state, PARAMS, MAPPING, groups)["param_groups"]
    assert [group[key] is value for key in ("name", "lr_scale", 3)] == [True] * 3


UNMATCHED = "the torch optimizer's groups and mapping do not match: "
NOT_ADADELTA = "param_groups[0] is not of torch.optim.Adadelta: "
NOT_A_LIST_OF_DICTS = "param_groups must be a list of dicts, got"
NOT_A_LIST_OF_IDS = "params of param_groups[0] must be a list of numbers or names, got"


def load(**changes):
    """Load a state_dict whose only group, of both parameters, has these changes."""
    return load_after(lambda _, group, __: group.update(changes))


def load_without_state(**changes):
    return load_after(
        lambda state_dict, group, _: state_dict["state"].clear() or group.update(changes)
    )


def frozen_as(frozen):
    return lambda: optimizer_from_torch(optim_state_dict(), PARAMS, MAPPING, frozen=frozen)


def one_of_two_named(state_dict, group, _):
    state_dict["param_groups"].append(group | {"params": [1]})
    group.update(params=[0], param_names=["fc.bias"])


REFUSALS = {
    **{
        f"param_groups={value!r}": (
            load_after(lambda state_dict, *_, value=value: state_dict.update(param_groups=value)),
            TypeError,
            f"{NOT_A_LIST_OF_DICTS} {value!r}",
        )
        for value in (3, None, {"lr": 1.0}, [3])
    },
    "no rho": (
        load_after(lambda _, group, __: group.pop("rho")),
        ValueError,
        f"{NOT_ADADELTA}it lacks rho",
    ),
    "the settings of SGD": (
        load_after(
            lambda _, group, __: (
                [group.pop(key) for key in ("rho", "eps")]
                and group.update(momentum=0.9, nesterov=True)
            )
        ),
        ValueError,
        f"{NOT_ADADELTA}it lacks rho, eps; it has momentum, nesterov",
    ),
    "the settings of Adam": (
        load_after(lambda _, group, __: group.pop("rho") and group.update(betas=(0.9, 0.999))),
        ValueError,
        f"{NOT_ADADELTA}it lacks rho; it has betas",
    ),
    "rho out of range": (
        load(rho=1.5),
        ValueError,
        "param_groups[0]: rho must lie in [0, 1], got 1.5",
    ),
    **{
        f"lr={value!r}": (
            load(lr=value),
            TypeError,
            f"param_groups[0]: lr must be a number, got {shown!r}",
        )
        for value, shown in (
            ("1", "1"),
            (None, None),
            (abs, abs),
            (np.ones(2, "f"), np.ones(2, "f")),
            (np.timedelta64(1, "s"), np.array(np.timedelta64(1, "s"))),
        )
    },
    **{
        f"maximize={value!r}": (
            load(maximize=value),
            TypeError,
            f"param_groups[0]: maximize must be True or False, got {value!r}",
        )
        for value in ("no", None, 2, np.ones(2, "f"))
    },
    **{
        f"params={value!r}": (load(params=value), TypeError, f"{NOT_A_LIST_OF_IDS} {value!r}")
        for value in (3, [[0], [1]], {0: 0, 1: 1}, np.arange(2))
    },
    "params, one twice": (
        load_without_state(params=[1, 1]),
        ValueError,
        "param_groups have 1 more than once",
    ),
    "groups of themselves": (
        load_after(lambda state_dict, *_: state_dict["param_groups"].append(state_dict)),
        ValueError,
        "param_groups[1] lacks params",
    ),
    **{
        f"param_names={value!r}": (
            load(param_names=value),
            TypeError,
            f"param_names of param_groups[0] must be a list of torch names, got {value!r}",
        )
        for value in (None, [["a"], ["b"]])
    },
    "one name for two parameters": (
        load(param_names=["fc.weight"]),
        ValueError,
        "param_groups[0] has 2 params, but 1 param_names",
    ),
    "names in one group of two": (
        load_after(one_of_two_named),
        ValueError,
        "param_groups[0] has param_names, but param_groups[1] has none",
    ),
    "fewer parameters than the mapping": (
        load_without_state(params=[0]),
        ValueError,
        "the torch optimizer has 1 parameters, but mapping names 2 that are not frozen "
        "(none are left for fc.bias): name those that it does not train in frozen, or give "
        "every group its param_names",
    ),
    "more parameters than the mapping": (
        load(params=[0, 1, 2]),
        ValueError,
        "the torch optimizer has 3 parameters, but mapping names 2 that are not frozen: name "
        "those that it does not train in frozen, or give every group its param_names",
    ),
    "fewer names than the mapping": (
        load_without_state(params=[0], param_names=["fc.weight"]),
        ValueError,
        f"{UNMATCHED}in no group and not in frozen are fc.bias",
    ),
    "a name that the mapping lacks": (
        load(param_names=["fc.weight", "fc.offset"]),
        ValueError,
        f"{UNMATCHED}mapping lacks fc.offset; in no group and not in frozen are fc.bias",
    ),
    "a number twice, once as a string": (
        load_without_state(params=[1, "1"]),
        ValueError,
        "param_groups have 1 more than once",
    ),
    "a name twice": (
        load(param_names=["fc.bias", "fc.bias"]),
        ValueError,
        f"{UNMATCHED}in no group and not in frozen are fc.weight; "
        "more than once in a group are fc.bias",
    ),
    **{
        f"frozen={value!r}": (
            frozen_as(value),
            TypeError,
            f"frozen must be a list of torch names, got {value!r}",
        )
        for value in ("fc.bias", None, [3])
    },
    "a frozen name that the mapping lacks": (
        frozen_as(["fc.offset"]),
        ValueError,
        f"{UNMATCHED}mapping lacks fc.offset",
    ),
}


@each_refusal(REFUSALS)
def test_wrong_groups_are_refused_in_these_words(call, error, message):
    assert_refused(call, error, message)
