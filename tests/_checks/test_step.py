"""What a user is told about a wrong argument: which one, what it was, and what would be right."""

import re
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.experimental import sparse

from adadelta_jax import adadelta, carry_over_state, param_groups, scale_by_adadelta

PARAMS = {"dense": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}}


def raises(error, message):
    return pytest.raises(error, match=f"^{re.escape(message)}$")


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("learning_rate", -0.1, ValueError, "learning_rate must be >= 0, got -0.1"),
        ("learning_rate", jnp.nan, ValueError, "learning_rate must be finite, got nan"),
        ("learning_rate", np.inf, ValueError, "learning_rate must be finite, got inf"),
        (
            "learning_rate",
            "fast",
            TypeError,
            "learning_rate must be a number, a 0-d array or a schedule, got 'fast'",
        ),
        ("rho", 1.5, ValueError, "rho must lie in [0, 1], got 1.5"),
        ("rho", -0.5, ValueError, "rho must lie in [0, 1], got -0.5"),
        ("rho", float("nan"), ValueError, "rho must lie in [0, 1], got nan"),
        ("rho", None, TypeError, "rho must be a number or a 0-d array, got None"),
        ("rho", "0.9", TypeError, "rho must be a number or a 0-d array, got '0.9'"),
        ("rho", [0.9, 0.9], TypeError, "rho must be a number or a 0-d array, got [0.9, 0.9]"),
        (
            "rho",
            np.array([0.9]),
            TypeError,
            "rho must be a number or a 0-d array, got array([0.9])",
        ),
        ("rho", 0.9j, TypeError, "rho must be a number or a 0-d array, got 0.9j"),
        ("eps", 2e30, ValueError, "eps must be at most 1e+30, got 2e+30"),
        ("eps", -1e-6, ValueError, "eps must be >= 0, got -1e-06"),
        ("eps", float("nan"), ValueError, "eps must be finite, got nan"),
        ("eps", jnp.float32(-1), ValueError, "eps must be >= 0, got -1"),
        ("weight_decay", -0.1, ValueError, "weight_decay must be >= 0, got -0.1"),
        ("weight_decay", np.float32("nan"), ValueError, "weight_decay must be finite, got nan"),
        (
            "accumulator_dtype",
            "int32",
            ValueError,
            "accumulator_dtype must be None or one of float32, float64, bfloat16, float16, int8, "
            "got int32",
        ),
        (
            "accumulator_dtype",
            "tiny",
            TypeError,
            "accumulator_dtype must be None or one of float32, float64, bfloat16, float16, int8, "
            "got 'tiny'",
        ),
        (
            "accumulator_dtype",
            "float64",
            ValueError,
            "accumulator_dtype float64 needs jax.config.update('jax_enable_x64', True)",
        ),
    ],
)
def test_a_wrong_setting_is_refused_by_name_and_value(name, value, error, message):
    with raises(error, message):
        adadelta(**{name: value})
    if name not in ("learning_rate", "weight_decay"):
        with raises(error, message):
            scale_by_adadelta(**{name: value})


@pytest.mark.parametrize("name", ["learning_rate", "rho", "eps", "weight_decay"])
@pytest.mark.parametrize(
    "value", [0, 1, 0.5, np.float32(0.5), np.array(0.5), jnp.array(0.5), jnp.bfloat16(0.5)]
)
def test_every_kind_of_number_in_range_is_accepted(name, value):
    optimizer = adadelta(**{name: value})
    updates, _ = optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(updates))


def test_the_largest_eps_is_accepted():
    optimizer = adadelta(eps=1e30)
    updates, _ = optimizer.update(PARAMS, optimizer.init(PARAMS))
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(updates))


def test_a_traced_setting_is_not_checked_because_it_has_no_value():
    def size_of_update(rho):
        optimizer = scale_by_adadelta(rho=rho)
        updates, _ = optimizer.update(PARAMS, optimizer.init(PARAMS))
        return optax.tree_utils.tree_norm(updates)

    sizes = jax.vmap(size_of_update)(jnp.array([0.0, 0.9, 0.95]))
    assert sizes[0] < sizes[1] < sizes[2]


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool"])
def test_a_parameter_without_a_gradient_dtype_is_refused_by_path(dtype):
    params = {"embedding": [jnp.ones(2), jnp.ones(2, dtype)]}
    with raises(
        TypeError,
        f"parameter embedding/1 has dtype {dtype}, which has no gradient: "
        "use floating-point or complex parameters, or leave it out with optax.masked",
    ):
        adadelta().init(params)


def test_a_random_key_among_the_parameters_is_refused():
    with pytest.raises(TypeError, match="parameter key has dtype key<fry>"):
        adadelta().init({"key": jax.random.key(0)})


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_sparse_gradient_is_refused_by_path(weight_decay):
    optimizer = adadelta(weight_decay=weight_decay)
    grads = {"dense": {"kernel": sparse.BCOO.fromdense(jnp.eye(3, 2)), "bias": jnp.ones(2)}}
    with raises(
        TypeError,
        "the gradient of dense/kernel is sparse (BCOO): "
        "Adadelta needs a dense one, as grad.todense() gives",
    ):
        optimizer.update(grads, optimizer.init(PARAMS), PARAMS)


@pytest.mark.parametrize(
    ("grads", "error", "message"),
    [
        (
            {"dense": {"kernel": jnp.ones((3, 2))}},
            ValueError,
            "the gradients do not match the {like}: "
            "they lack dense/bias (None stands for no gradient)",
        ),
        (
            {"dense": PARAMS["dense"], "head": jnp.ones(1)},
            ValueError,
            "the gradients do not match the {like}: they have head, which the {like} lack",
        ),
        (
            {"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(2)}},
            ValueError,
            "the gradient of dense/kernel has shape (2, 3), but the {like} have shape (3, 2)",
        ),
        (
            {"dense": {"kernel": jnp.ones((3, 2), int), "bias": jnp.ones(2)}},
            TypeError,
            "the gradient of dense/kernel has dtype int32: it must be floating-point or complex",
        ),
        (
            {"dense": {"kernel": jnp.ones((3, 2), complex), "bias": jnp.ones(2)}},
            TypeError,
            "the gradient of dense/kernel is complex, but the {like} are real",
        ),
    ],
)
@pytest.mark.parametrize(("params", "like"), [(None, "accumulators"), (PARAMS, "parameters")])
def test_gradients_that_do_not_match_are_refused_by_path(grads, error, message, params, like):
    optimizer = adadelta()
    with raises(error, message.format(like=like)):
        optimizer.update(grads, optimizer.init(PARAMS), params)


@pytest.mark.parametrize(
    ("count", "listed"),
    [(8, "0, 1, 2, 3, 4, 5, 6, 7"), (10, "0, 1, 2, 3, 4, 5, 6, 7 and 2 more")],
)
def test_of_many_names_eight_are_listed_and_the_others_counted(count, listed):
    optimizer = adadelta()
    with raises(
        ValueError,
        f"the gradients do not match the accumulators: "
        f"they lack {listed} (None stands for no gradient)",
    ):
        optimizer.update([], optimizer.init([jnp.ones(1)] * count))


def test_a_container_of_another_type_is_refused():
    optimizer = scale_by_adadelta()
    state = optimizer.init([jnp.ones(2)])
    with pytest.raises(
        ValueError, match=r"^the gradients do not match the accumulators: they are a PyTreeDef"
    ):
        optimizer.update((jnp.ones(2),), state)


def test_a_gradient_for_what_is_no_parameter_is_refused():
    optimizer = scale_by_adadelta()
    state = optimizer.init({"frozen": None, "free": jnp.ones(2)})
    with raises(ValueError, "frozen has a gradient, but no accumulators"):
        optimizer.update({"frozen": jnp.ones(2), "free": jnp.ones(2)}, state)


def test_what_comes_after_a_gradient_of_none_is_checked_too():
    optimizer = adadelta()
    state = optimizer.init({"first": jnp.ones(2), "second": jnp.ones(2)})
    message = "the gradient of second has shape (3,), but the accumulators have shape (2,)"
    with raises(ValueError, message):
        optimizer.update({"first": None, "second": jnp.ones(3)}, state)


def test_what_comes_after_a_frozen_group_is_checked_too():
    message = "group 'b' must be a mapping of adadelta's keywords to values, or None to freeze it"
    with raises(TypeError, f"{message}, got 3"):
        param_groups({"a": None, "b": 3}, {"kernel": "a", "bias": "b"})


@pytest.mark.parametrize("method", ["init", "update"])
def test_an_optimizer_needs_both_of_its_functions(method):
    half = SimpleNamespace(**{method: getattr(adadelta(), method)})
    with raises(TypeError, f"optimizer must be an optax.GradientTransformation, got {half!r}"):
        carry_over_state(half, PARAMS, adadelta().init(PARAMS))


def test_a_bare_array_is_called_the_parameter():
    optimizer = adadelta()
    with raises(
        ValueError,
        "the gradient of the parameter has shape (3,), but the accumulators have shape (2,)",
    ):
        optimizer.update(jnp.ones(3), optimizer.init(jnp.ones(2)))


@pytest.mark.parametrize("decoupled_weight_decay", [False, True])
def test_weight_decay_without_params_is_refused(decoupled_weight_decay):
    optimizer = adadelta(weight_decay=0.1, decoupled_weight_decay=decoupled_weight_decay)
    with raises(
        ValueError,
        "weight_decay needs the parameters: call update(grads, state, params), got params=None",
    ):
        optimizer.update(PARAMS, optimizer.init(PARAMS))


def test_an_error_leaves_the_state_as_it_was():
    optimizer = adadelta()
    state = optimizer.init(PARAMS)
    before = jax.tree.map(jnp.copy, state)
    with pytest.raises(ValueError, match="has shape"):
        optimizer.update(jax.tree.map(lambda p: p[:1], PARAMS), state, PARAMS)
    jax.tree.map(np.testing.assert_array_equal, state, before)


@pytest.mark.parametrize(
    ("around", "name"),
    [(lambda layer: layer, "bias"), (lambda layer: nnx.Sequential(layer), "layers/0/bias")],
)
def test_a_parameter_in_an_nnx_state_goes_by_the_name_of_its_variable(around, name):
    state = nnx.state(around(nnx.Linear(2, 3, rngs=nnx.Rngs(0))))
    grads = jax.tree.map(lambda p: jnp.ones((*p.shape, 1)), state)
    with pytest.raises(ValueError, match=rf"^the gradient of {name} has shape \(3, 1\)"):
        adadelta().update(grads, adadelta().init(state))


def test_a_warning_points_to_the_line_that_carries_the_state_over():
    old = adadelta().init({"a": jnp.ones(2), "b": jnp.ones(2)})
    new = {"a": jnp.ones(3), "b": jnp.ones(2)}
    with pytest.warns(UserWarning, match="^the accumulators of a start from zero") as warned:
        carry_over_state(adadelta(), new, old)
    assert [warning.filename for warning in warned] == [__file__]


def test_to_make_an_optimizer_starts_no_backend():
    """A program may make one before it says how many devices there are."""
    script = (
        "import jax\n"
        "from adadelta_jax import adadelta, label_by_path, param_groups\n"
        "adadelta(0.5, 0.9, 1e-6, 0.1, accumulator_dtype='int8')\n"
        "param_groups({'a': {}, 'b': None}, label_by_path({'x': 'a'}, 'b'))\n"
        "jax.config.update('jax_num_cpu_devices', 3)\n"
        "assert jax.device_count() == 3"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
