"""What goes back to torch: which states are understood, which groups it can return to."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from adadelta_jax import adadelta, param_groups, scale_by_adadelta
from adadelta_jax.torch_interop import LeafLayout, optimizer_to_torch
from tests.refusals import (
    MAPPING,
    PARAMS,
    SCALE_STATE,
    STATE,
    assert_refused,
    each_refusal,
)

TWO_GROUPS = param_groups({"0": {}, "1": {}}, {"dense": {"kernel": "0", "bias": "1"}})


def stepped(optimizer, grads=PARAMS):
    """The state of an optimizer after two steps with these gradients, of one by default."""
    state = optimizer.init(PARAMS)
    for _ in range(2):
        _, state = optimizer.update(grads, state, PARAMS)
    return state


def to_torch(opt_state, groups=None):
    return optimizer_to_torch(opt_state, PARAMS, MAPPING, groups)


def injected(**settings):
    return optax.inject_hyperparams(adadelta, static_args=("maximize",))(**settings)


@pytest.mark.parametrize(
    "optimizer",
    [
        adadelta(),
        scale_by_adadelta(),
        optax.chain(optax.clip_by_global_norm(100.0), adadelta(weight_decay=0.0)),
        optax.apply_if_finite(adadelta(), 3),
        optax.chain(adadelta(), optax.ema(0.9)),
        param_groups({"all": {}}, lambda params: jax.tree.map(lambda _: "all", params)),
        adadelta(lambda count: 1.0 / (count + 1)),
    ],
)
def test_the_accumulators_are_found_wherever_they_stand(optimizer):
    state = to_torch(stepped(optimizer))["state"]
    expected = stepped(scale_by_adadelta()).square_avg["dense"]
    np.testing.assert_array_equal(state[0]["square_avg"], expected["kernel"].T)
    np.testing.assert_array_equal(state[1]["square_avg"], expected["bias"])
    for entry in state.values():
        step = np.asarray(entry["step"])
        assert (step, step.dtype) == (2, np.float32)


@pytest.mark.parametrize(
    "count",
    [7, np.array(7), np.int64(7), np.array(7, np.uint8), jnp.uint32(7), "int64"],
    ids=["int", "array", "scalar", "uint8", "uint32", "int64"],
)
def test_a_count_of_any_integer_type_is_the_step(count):
    with jax.enable_x64(count == "int64"):
        count = jnp.asarray(7, jnp.int64) if count == "int64" else count
        state = stepped(scale_by_adadelta())._replace(count=count)
        for entry in to_torch(state)["state"].values():
            assert np.asarray(entry["step"]).dtype == np.float32
            assert entry["step"] == 7


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_accumulators_in_half_precision_go_back_in_the_dtype_of_the_parameters(dtype):
    state = to_torch(stepped(adadelta(accumulator_dtype=dtype)))["state"]
    expected = stepped(scale_by_adadelta()).square_avg["dense"]
    for square_avg, accumulator in (
        (state[0]["square_avg"], expected["kernel"].T),
        (state[1]["square_avg"], expected["bias"]),
    ):
        assert np.asarray(square_avg).dtype == np.float32
        np.testing.assert_allclose(square_avg, accumulator, rtol=2**-7)


def test_accumulators_too_large_for_half_precision_saturate():
    params = {"w": jnp.zeros(2, jnp.float16)}
    state = optax.tree.set(adadelta().init(params), square_avg={"w": jnp.array([1e6, jnp.inf])})
    square_avg = optimizer_to_torch(state, params, {"w": "w"})["state"][0]["square_avg"]
    np.testing.assert_array_equal(square_avg, np.array([65504, np.inf], np.float16))


def test_a_parameter_without_gradients_so_far_has_no_entry_as_in_torch():
    grads = {"dense": {"kernel": None, "bias": jnp.ones(2)}}
    assert to_torch(stepped(adadelta(), grads))["state"].keys() == {1}


def test_frozen_parameters_may_be_missing_in_the_groups():
    labels = {"dense": {"kernel": "trained", "bias": "frozen"}}
    state = stepped(param_groups({"trained": {}, "frozen": None}, labels))
    for group in (
        {"params": [0]},
        {"params": [0, 1]},
        {"params": [9], "param_names": ["fc.weight"]},
    ):
        optim_state = to_torch(state, [group])
        assert optim_state["state"].keys() == {0}
        (returned,) = optim_state["param_groups"]
        assert returned["params"] == list(range(len(group["params"])))


def test_without_groups_there_is_one_with_torchs_defaults():
    assert to_torch(STATE)["param_groups"] == [
        {
            "lr": 1.0,
            "rho": 0.9,
            "eps": 1e-6,
            "weight_decay": 0,
            "maximize": False,
            "foreach": None,
            "capturable": False,
            "differentiable": False,
            "params": [0, 1],
            "param_names": ["fc.weight", "fc.bias"],
        }
    ]


def test_the_settings_of_a_given_group_win_and_are_completed():
    given = [{"lr": 0.25, "initial_lr": 0.5}]
    (group,) = to_torch(STATE, given)["param_groups"]
    assert (group["lr"], group["initial_lr"], group["rho"]) == (0.25, 0.5, 0.9)
    assert given == [{"lr": 0.25, "initial_lr": 0.5}]


INJECTED = injected(learning_rate=0.5, rho=0.75, eps=2.0**-10, weight_decay=0.25)


@pytest.mark.parametrize(
    "optimizer",
    [INJECTED, optax.chain(optax.inject_hyperparams(optax.clip)(1.0), INJECTED)],
    ids=["alone", "in a chain with other injected settings"],
)
def test_injected_settings_go_back(optimizer):
    (group,) = to_torch(stepped(optimizer))["param_groups"]
    assert (group["lr"], group["rho"], group["eps"]) == (0.5, 0.75, 2.0**-10)
    assert group["weight_decay"] == 0.25


def test_injected_settings_win_over_those_of_a_given_group():
    state = stepped(INJECTED)
    state.hyperparams["learning_rate"] = jnp.float32(0.1)  # as a user changes it
    given = [{"lr": 0.5, "rho": 0.9, "eps": 1e-6, "maximize": True, "name": "all"}]
    (group,) = to_torch(state, given)["param_groups"]
    assert (group["lr"], group["rho"], group["eps"]) == (np.float32(0.1), 0.75, 2.0**-10)
    assert (group["weight_decay"], group["maximize"], group["name"]) == (0.25, True, "all")


def test_an_injected_setting_that_is_as_it_was_given_comes_back_unrounded():
    (group,) = to_torch(stepped(injected(learning_rate=0.1)), [{"lr": 0.1}])["param_groups"]
    assert group["lr"] == 0.1


LABELS = {"dense": {"kernel": "0", "bias": "1"}}
GROUPS = [{"params": [0], "lr": 0.5}, {"params": [1], "lr": 0.5}]


def test_each_group_gets_the_injected_settings_of_its_parameters():
    transforms = {"0": injected(learning_rate=0.25), "1": injected(learning_rate=0.125)}
    state = stepped(optax.partition(transforms, LABELS))
    assert [g["lr"] for g in to_torch(state, GROUPS)["param_groups"]] == [0.25, 0.125]
    state = stepped(optax.partition(transforms | {"1": adadelta()}, LABELS))
    assert [g["lr"] for g in to_torch(state, GROUPS)["param_groups"]] == [0.25, 0.5]


def test_an_nnx_optimizer_gives_its_injected_settings_back():
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, injected(learning_rate=0.25), wrt=nnx.Param)
    mapping = {"fc.weight": LeafLayout("kernel", axes=(1, 0)), "fc.bias": "bias"}
    params = nnx.state(model, nnx.Param)
    back = optimizer_to_torch(optimizer.opt_state, params, mapping, [{"lr": 0.5}])
    assert back["param_groups"][0]["lr"] == 0.25


@pytest.mark.parametrize("optimizer", [adadelta(), INJECTED], ids=["plain", "injected"])
def test_a_schedule_as_the_rate_of_a_group_is_its_value_for_the_next_step(optimizer):
    schedule = optax.exponential_decay(0.3, transition_steps=1, decay_rate=0.9)
    groups = [{"lr": schedule, "rho": 0.75}]
    (group,) = to_torch(stepped(optimizer), groups)["param_groups"]
    np.testing.assert_allclose(group["lr"], 0.3 * 0.9**2, rtol=1e-7)
    assert type(group["lr"]) is float
    state = TWO_GROUPS.init(PARAMS)
    groups = [GROUPS[0], GROUPS[1] | {"lr": lambda count: 1 / (count + 1)}]
    assert [g["lr"] for g in to_torch(state, groups)["param_groups"]] == [0.5, 1.0]


REFUSALS = {
    "several injected settings for one group": (
        lambda: to_torch(
            optax.partition(
                {"0": injected(learning_rate=0.25), "1": injected(learning_rate=0.5)}, LABELS
            ).init(PARAMS),
            [{}],
        ),
        ValueError,
        "param_groups[0] has one lr, but opt_state holds 0.25 and 0.5 for its parameters: "
        "put fc.bias into another group",
    ),
    "a schedule that gives no number": (
        lambda: to_torch(STATE, [{"lr": lambda count: "fast"}]),
        TypeError,
        "param_groups[0]: lr(count) must be a number, got 'fast'",
    ),
    "a schedule that gives a rate below zero": (
        lambda: to_torch(STATE, [{"lr": lambda count: count - 1.0}]),
        ValueError,
        "param_groups[0]: learning_rate must be >= 0, got -1",
    ),
    "no state": (
        lambda: to_torch(None),
        ValueError,
        "opt_state holds no square_avg and acc_delta of these params",
    ),
    "the state of another optimizer": (
        lambda: to_torch(optax.sgd(0.1).init(PARAMS)),
        ValueError,
        "opt_state holds no square_avg and acc_delta of these params",
    ),
    "two accumulators of one parameter": (
        lambda: to_torch(optax.chain(scale_by_adadelta(), scale_by_adadelta()).init(PARAMS), [{}]),
        ValueError,
        "opt_state holds more than one square_avg of fc.weight",
    ),
    "accumulators of another shape": (
        lambda: to_torch(adadelta().init({"dense": {"kernel": jnp.ones((2, 3))}})),
        ValueError,
        "square_avg of dense/kernel has shape (2, 3), but the parameter (3, 2)",
    ),
    "no acc_delta": (
        lambda: to_torch(SCALE_STATE._replace(acc_delta={})),
        ValueError,
        "opt_state holds square_avg of dense/bias, dense/kernel, but no acc_delta",
    ),
    "no count": (
        lambda: to_torch(SCALE_STATE._replace(count=None)),
        ValueError,
        "the count of opt_state must be an integer of at least 0, got None",
    ),
    "a count of several numbers": (
        lambda: to_torch(SCALE_STATE._replace(count=np.array([1, 2]))),
        ValueError,
        "the count of opt_state must be an integer scalar, got array([1, 2])",
    ),
    **{
        f"groups={value!r}": (
            lambda value=value: to_torch(STATE, value),
            TypeError,
            f"param_groups must be a list of dicts, got {value!r}",
        )
        for value in (3, {}, {"lr": 1.0}, [3])
    },
    "several groups in the state, none given": (
        lambda: to_torch(TWO_GROUPS.init(PARAMS)),
        ValueError,
        "opt_state has 2 groups of parameters: param_groups must be given",
    ),
    "a group without params": (
        lambda: to_torch(TWO_GROUPS.init(PARAMS), [{}, {"params": [1]}]),
        ValueError,
        "param_groups[0] lacks params",
    ),
    "too few parameters": (
        lambda: to_torch(STATE, [{"params": [0]}]),
        ValueError,
        "the torch optimizer has 1 parameters, but mapping names 2 that are not frozen "
        "(none are left for fc.bias): name those that it does not train in frozen, or give every "
        "group its param_names",
    ),
    "too few names": (
        lambda: to_torch(STATE, [{"params": [0], "param_names": ["fc.weight"]}]),
        ValueError,
        "the torch optimizer's groups and mapping do not match: "
        "in no group and not in frozen are fc.bias",
    ),
    "a setting that is no number": (
        lambda: to_torch(STATE, [{"lr": "fast"}]),
        TypeError,
        "param_groups[0]: lr must be a number, got 'fast'",
    ),
    "a setting out of range": (
        lambda: to_torch(STATE, [{"rho": np.array(1.5)}]),
        ValueError,
        "param_groups[0]: rho must lie in [0, 1], got 1.5",
    ),
    "an injected setting that is no number": (
        lambda: to_torch(
            INJECTED.init(PARAMS)._replace(hyperparams={"learning_rate": jnp.ones(2)})
        ),
        TypeError,
        "learning_rate of opt_state must be a number, got array([1., 1.], dtype=float32)",
    ),
}


@each_refusal(REFUSALS)
def test_what_cannot_go_back_is_refused_in_these_words(call, error, message):
    assert_refused(call, error, message)
