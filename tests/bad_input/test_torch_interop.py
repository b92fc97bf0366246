"""Wrong arguments of `torch_interop`, and the words of their refusal.

What the tests in tests/torch_interop have is not here again.
"""

import numpy as np
import pytest
import torch

from adadelta_jax import (
    torch_interop,
)
from adadelta_jax.torch_interop import (
    LeafLayout,
    match_flax_params,
    optimizer_to_torch,
    params_from_torch,
    params_to_torch,
)
from tests.bad_input.refusals import (
    MAPPING,
    PARAMS,
    STATE,
    WEIGHTS,
    assert_refused,
    load_after,
)

A_NUMBER_OR_SCHEDULE = "must be a number, a 0-d array or a schedule, got"
UNMATCHED = "the torch optimizer's groups and mapping do not match: "
TORCH = {
    **{
        f"a tensor that is {name}": (
            lambda tensor=tensor: params_from_torch(WEIGHTS | {"fc.bias": tensor}, PARAMS, MAPPING),
            TypeError,
            message,
        )
        for name, tensor, message in (
            ("object", np.ones(2, object), "fc.bias is object, but dense/bias is float32"),
            ("text", np.full(2, "a"), "fc.bias is <U1, but dense/bias is float32"),
            ("a time", np.ones(2, "M8[s]"), "fc.bias is datetime64[s], but dense/bias is float32"),
            (
                "nowhere",
                torch.ones(2, device="meta"),
                "fc.bias of dtype torch.float32 cannot become an array: "
                "Cannot copy out of meta tensor; no data!",
            ),
            (
                "float8",
                torch.ones(2).to(torch.float8_e4m3fn),
                "fc.bias of dtype torch.float8_e4m3fn cannot become an array: "
                "Got unsupported ScalarType Float8_e4m3fn",
            ),
        )
    },
    "params=3": (
        lambda: params_to_torch(3, MAPPING),
        ValueError,
        "mapping and params do not match: params lacks dense/kernel, dense/bias; "
        "mapping lacks the parameter",
    ),
    "axes of text": (
        lambda: params_to_torch(
            PARAMS, MAPPING | {"fc.weight": LeafLayout("dense/kernel", ("a", "b"))}
        ),
        ValueError,
        "mapping['fc.weight'] does not fit a leaf of shape (3, 2): "
        f"{LeafLayout('dense/kernel', ('a', 'b'))}",
    ),
    "names with three parts": (
        lambda: match_flax_params([("a", (1,), 3)], PARAMS),
        TypeError,
        "torch_names_and_shapes must be a state_dict, named_parameters() or a dict from names to "
        "shapes, got list",
    ),
    "frozen=[3]": (
        lambda: torch_interop.optimizer_from_torch(
            {"state": {}, "param_groups": []}, PARAMS, MAPPING, frozen=[3]
        ),
        ValueError,
        f"{UNMATCHED}mapping lacks 3; in no group and not in frozen are fc.weight, fc.bias",
    ),
    "param_groups={}": (
        lambda: optimizer_to_torch(STATE, PARAMS, MAPPING, {}),
        TypeError,
        "param_groups must be a list of dicts, got {}",
    ),
    "opt_state is None": (
        lambda: optimizer_to_torch(None, PARAMS, MAPPING),
        ValueError,
        "opt_state holds no square_avg and acc_delta of these params",
    ),
}
LOADED = {
    name: (load_after(damage), error, message)
    for name, damage, error, message in (
        (
            "state, a list",
            lambda state_dict, *_: state_dict.update(state=[0, 1, 2]),
            ValueError,
            "the torch optimizer's state does not match its groups: no group has 2",
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
            ValueError,
            "the torch optimizer's state does not match its groups: no group has 0, 1",
        ),
        (
            "lr, text",
            lambda _, group, __: group.update(lr="1"),
            TypeError,
            f"param_groups[0]: learning_rate {A_NUMBER_OR_SCHEDULE} '1'",
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
    )
}
TABLE = {**TORCH, **{f"loading, {name}": row for name, row in LOADED.items()}}


@pytest.mark.parametrize(("call", "error", "message"), TABLE.values(), ids=TABLE)
def test_a_wrong_argument_is_refused_in_these_words(call, error, message):
    assert_refused(call, error, message)
