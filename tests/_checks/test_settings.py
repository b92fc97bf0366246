"""Wrong settings are refused, and every setting in range is accepted."""

import inspect
import subprocess
import sys
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adadelta_jax import adadelta, carry_over_state, scale_by_adadelta, with_step_hooks
from adadelta_jax.diagnostics import effective_learning_rate
from adadelta_jax.sharding import state_shardings
from tests.refusals import EVERYWHERE, OPTIMIZER, PARAMS, STATE, assert_refused, each_refusal

EXPECTED = {
    "learning_rate": "learning_rate must be a number, a 0-d array or a schedule, got",
    "rho": "rho must be a number or a 0-d array, got",
    "eps": "eps must be a number or a 0-d array, got",
    "weight_decay": "weight_decay must be a number, a 0-d array or a schedule, got",
}
NOT_NUMBERS = (
    {},
    np.ones(1),
    jnp.ones(1),
    np.array(None),
    1j,
    jnp.array(1j),
    np.str_("1"),
    jax.ShapeDtypeStruct((), jnp.float32),
)
DTYPES = "accumulator_dtype must be None or one of float32, float64, bfloat16, float16, uint8, got"
# The name of a setting, its value, the type of the error and its message.
SETTINGS = (
    *(
        (name, value, TypeError, f"{EXPECTED[name]} {value!r}")
        for name in EXPECTED
        for value in NOT_NUMBERS
    ),
    ("learning_rate", -0.1, ValueError, "learning_rate must be >= 0, got -0.1"),
    ("learning_rate", jnp.nan, ValueError, "learning_rate must be finite, got nan"),
    ("learning_rate", np.inf, ValueError, "learning_rate must be finite, got inf"),
    ("learning_rate", "fast", TypeError, f"{EXPECTED['learning_rate']} 'fast'"),
    ("rho", 1.5, ValueError, "rho must lie in [0, 1], got 1.5"),
    ("rho", -0.5, ValueError, "rho must lie in [0, 1], got -0.5"),
    ("rho", float("nan"), ValueError, "rho must lie in [0, 1], got nan"),
    ("rho", None, TypeError, f"{EXPECTED['rho']} None"),
    ("rho", "0.9", TypeError, f"{EXPECTED['rho']} '0.9'"),
    ("rho", b"1", TypeError, f"{EXPECTED['rho']} b'1'"),
    ("rho", [0.9, 0.9], TypeError, f"{EXPECTED['rho']} [0.9, 0.9]"),
    ("rho", 10**400, TypeError, f"{EXPECTED['rho']} {10**400}"),
    ("rho", np.array("0.5"), TypeError, f"{EXPECTED['rho']} {np.array('0.5')!r}"),
    ("rho", np.timedelta64(1, "s"), TypeError, f"{EXPECTED['rho']} {np.timedelta64(1, 's')!r}"),
    ("eps", 2e30, ValueError, "eps must be at most 1e+30, got 2e+30"),
    ("eps", -1e-6, ValueError, "eps must be >= 0, got -1e-06"),
    ("eps", float("nan"), ValueError, "eps must be finite, got nan"),
    ("eps", jnp.float32(-1), ValueError, "eps must be >= 0, got -1"),
    ("weight_decay", -0.1, ValueError, "weight_decay must be >= 0, got -0.1"),
    ("weight_decay", np.float32("nan"), ValueError, "weight_decay must be finite, got nan"),
    ("maximize", "no", TypeError, "maximize must be True or False, got 'no'"),
    (
        "decoupled_weight_decay",
        None,
        TypeError,
        "decoupled_weight_decay must be True or False, got None",
    ),
    ("accumulator_dtype", 0, TypeError, f"{DTYPES} 0"),
    ("accumulator_dtype", "", TypeError, f"{DTYPES} ''"),
    ("accumulator_dtype", True, TypeError, f"{DTYPES} True"),
    ("accumulator_dtype", "tiny", TypeError, f"{DTYPES} 'tiny'"),
    ("accumulator_dtype", [], ValueError, f"{DTYPES} void"),
    ("accumulator_dtype", int, ValueError, f"{DTYPES} int64"),
    ("accumulator_dtype", "int32", ValueError, f"{DTYPES} int32"),
    ("accumulator_dtype", "complex64", ValueError, f"{DTYPES} complex64"),
    ("accumulator_dtype", "float8_e4m3fn", ValueError, f"{DTYPES} float8_e4m3fn"),
    (
        "accumulator_dtype",
        "float64",
        ValueError,
        "accumulator_dtype float64 needs jax.config.update('jax_enable_x64', True)",
    ),
)


def with_setting(name, value):
    """A call with the setting of each function that takes it, by name."""
    return {
        f"{make.__name__}, {name}={value!r:.40}": lambda make=make: make(**{name: value})
        for make in (adadelta, scale_by_adadelta)
        if name in inspect.signature(make).parameters
    }


SETTINGS_OF_ADADELTA = {
    name: (call, error, message)
    for setting, value, error, message in SETTINGS
    for name, call in with_setting(setting, value).items()
}


def step_with(**settings):
    """A call that makes an optimizer and takes a step with it."""

    def call():
        optimizer = adadelta(**settings)
        return optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)

    return call


def vectors(_):
    return jnp.ones(3)


@pytest.mark.parametrize("accumulator_dtype", [jnp.bfloat16, "bfloat16", jnp.dtype("bfloat16")])
def test_injected_hyperparameters_leave_the_accumulators_their_dtype(accumulator_dtype):
    """Optax takes `jnp.bfloat16`, which can be called, for a schedule."""
    optimizer = optax.inject_hyperparams(adadelta)(accumulator_dtype=accumulator_dtype)
    _, state = optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)
    accumulators = jax.tree.leaves(optax.tree.get(state, "square_avg"))
    assert {each.dtype for each in accumulators} == {jnp.dtype("bfloat16")}


SCHEDULES = {
    "a type as a schedule": (
        step_with(learning_rate=str),
        TypeError,
        "learning_rate must return a number or a 0-d array, got '0'",
    ),
    "a schedule of vectors": (
        step_with(learning_rate=vectors),
        TypeError,
        f"learning_rate must return a number or a 0-d array, got {jnp.ones(3)!r}",
    ),
    "a schedule of vectors for the decay": (
        step_with(weight_decay=vectors),
        TypeError,
        f"weight_decay must return a number or a 0-d array, got {jnp.ones(3)!r}",
    ),
}


def init_with_mask(mask):
    return lambda: adadelta(weight_decay=0.1, weight_decay_mask=mask).init(PARAMS)


A_MASK = "weight_decay_mask must be a tree of booleans like the parameters, got"
MASKS = {
    "a mask of text": (init_with_mask("kernel"), TypeError, f"{A_MASK} 'kernel'"),
    "a mask with text in it": (
        init_with_mask({"dense": {"kernel": "yes", "bias": True}}),
        TypeError,
        f"{A_MASK} 'yes' for dense/kernel",
    ),
    "a mask of an array": (
        init_with_mask(jnp.ones(3)),
        TypeError,
        f"{A_MASK} {jnp.ones(3)!r}",
    ),
    "a mask that lacks a parameter": (
        init_with_mask({"dense": {"kernel": True}}),
        ValueError,
        "weight_decay_mask: the booleans do not match the parameters: they lack dense/bias",
    ),
}

AN_OPTIMIZER = "optimizer must be an optax.GradientTransformation, got"
HALVES = (
    SimpleNamespace(update=OPTIMIZER.update),
    SimpleNamespace(init=OPTIMIZER.init),
    SimpleNamespace(init=None, update=OPTIMIZER.update),
    SimpleNamespace(init=3, update=OPTIMIZER.update),
)
OPTIMIZERS_AND_HOOKS = {
    "hooks around a number": (lambda: with_step_hooks(3), TypeError, f"{AN_OPTIMIZER} 3"),
    "carry over to a number": (
        lambda: carry_over_state(3, PARAMS, STATE),
        TypeError,
        f"{AN_OPTIMIZER} 3",
    ),
    "shardings for a number": (
        lambda: state_shardings(3, PARAMS, EVERYWHERE),
        TypeError,
        f"{AN_OPTIMIZER} 3",
    ),
    **{
        f"hooks around {half!r:.40}": (
            lambda half=half: with_step_hooks(half),
            TypeError,
            f"{AN_OPTIMIZER} {half!r}",
        )
        for half in HALVES
    },
    **{
        f"a number as {name}": (
            lambda name=name: with_step_hooks(OPTIMIZER, **{name: 3}),
            TypeError,
            f"{name} must be a function (updates, state, params), got 3",
        )
        for name in ("pre_step", "post_step")
    },
    "an eps below zero for the rates": (
        lambda: effective_learning_rate(STATE, eps=-1),
        ValueError,
        "eps must be >= 0, got -1",
    ),
    "an eps of NaN for the rates": (
        lambda: effective_learning_rate(STATE, float("nan")),
        ValueError,
        "eps must be finite, got nan",
    ),
}


@each_refusal(SETTINGS_OF_ADADELTA | SCHEDULES | MASKS | OPTIMIZERS_AND_HOOKS)
def test_a_wrong_setting_is_refused_in_these_words(call, error, message):
    assert_refused(call, error, message)


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("value", [0, 1, 0.5, np.float32(0.5), np.array(0.5), jnp.array(0.5)])
def test_every_kind_of_number_in_range_is_accepted(name, value):
    updates, _ = step_with(**{name: value})()
    chex.assert_tree_all_finite(updates)


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_setting_in_half_precision_is_taken_with_a_warning(name, dtype):
    with pytest.warns(UserWarning, match=f"{name} is {dtype}, .* hyperparam_dtype=jnp.float32"):
        updates, _ = step_with(**{name: jnp.asarray(0.5, dtype)})()
    chex.assert_tree_all_finite(updates)


def test_injection_warns_of_half_precision_and_says_how_to_avoid_it():
    params = jnp.ones(3, jnp.bfloat16)
    with pytest.warns(UserWarning, match="is bfloat16, which rounds 0.999 to 1") as warned:
        optax.inject_hyperparams(adadelta)(rho=0.999, eps=1e-8).init(params)
    assert {str(w.message).split()[0] for w in warned} >= {"rho", "eps"}
    in_float32 = optax.inject_hyperparams(adadelta, hyperparam_dtype=jnp.float32)(rho=0.999)
    state = in_float32.init(params)
    assert state.hyperparams["rho"] == jnp.float32(0.999)
    in_float32.update(params, state, params)


def test_the_largest_eps_is_accepted():
    updates, _ = step_with(eps=1e30)()
    chex.assert_tree_all_finite(updates)


def test_a_traced_setting_is_not_checked_because_it_has_no_value():
    def size_of_update(rho):
        optimizer = scale_by_adadelta(rho=rho)
        updates, _ = optimizer.update(PARAMS, optimizer.init(PARAMS))
        return optax.tree.norm(updates)

    sizes = jax.vmap(size_of_update)(jnp.array([0.0, 0.9, 0.95]))
    assert sizes[0] < sizes[1] < sizes[2]


def test_an_optimizer_is_made_before_jax_has_chosen_its_devices():
    script = (
        "import jax\n"
        "from adadelta_jax import adadelta, label_by_path, param_groups\n"
        "adadelta(0.5, 0.9, 1e-6, 0.1, accumulator_dtype='uint8')\n"
        "param_groups({'a': {}, 'b': None}, label_by_path({'x': 'a'}, 'b'))\n"
        "jax.config.update('jax_num_cpu_devices', 3)\n"
        "assert jax.device_count() == 3"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
