"""The README's table says where optax.adadelta does otherwise: each line, run in both."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adadelta_jax import adadelta


def first_update(optimizer, params, grads):
    return optimizer.update(grads, optimizer.init(params), params)[0]


def test_without_a_learning_rate_optax_ascends_and_we_descend():
    params = jnp.array([3.0, -2.0])
    grads = 2 * params  # of the sum of squares
    np.testing.assert_array_less(
        params**2, (params + first_update(optax.adadelta(), params, grads)) ** 2
    )
    np.testing.assert_array_less((params + first_update(adadelta(), params, grads)) ** 2, params**2)


def test_optax_squares_a_complex_gradient_and_we_square_its_parts():
    params, grads = jnp.zeros(1, jnp.complex64), jnp.array([1j])
    _, theirs, _ = optax.adadelta(1.0).update(grads, optax.adadelta(1.0).init(params), params)[1]
    _, ours = adadelta().update(grads, adadelta().init(params), params)
    np.testing.assert_allclose(theirs.e_g, [-0.1 + 0j], rtol=1e-6)
    np.testing.assert_allclose(optax.tree.get(ours, "square_avg"), [0.1j], rtol=1e-6)


def test_a_zero_gradient_in_float16_with_a_tiny_eps_is_nan_in_optax_and_zero_here():
    params, grads = jnp.ones(1, jnp.float16), jnp.zeros(1, jnp.float16)
    assert jnp.isnan(first_update(optax.adadelta(1.0, eps=1e-8), params, grads)).all()
    np.testing.assert_array_equal(first_update(adadelta(eps=1e-8), params, grads), [0.0])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("rho", 1.5, "rho must lie in"),
        ("eps", -1.0, "eps must be >= 0"),
        ("learning_rate", float("nan"), "learning_rate must be finite"),
        ("weight_decay", float("nan"), "weight_decay must be finite"),
    ],
)
def test_optax_trains_on_nan_with_a_wrong_setting_and_we_refuse_it(name, value, message):
    params = jnp.ones(1)
    optimizer = optax.adadelta(**{"learning_rate": 1.0, name: value})
    assert jnp.isnan(first_update(optimizer, params, params)).all()
    with pytest.raises(ValueError, match=message):
        adadelta(**{name: value})


def test_optax_refuses_a_gradient_of_none_and_we_leave_its_parameter_alone():
    params = {"frozen": jnp.ones(1), "free": jnp.ones(1)}
    grads = {"frozen": None, "free": jnp.ones(1)}
    with pytest.raises(ValueError, match="frozen"):
        first_update(optax.adadelta(1.0), params, grads)
    np.testing.assert_array_equal(first_update(adadelta(), params, grads)["frozen"], [0.0])


def test_optax_updates_integers_with_floats_and_we_refuse_them():
    params = {"count": jnp.array([1, 2])}
    theirs = first_update(optax.adadelta(1.0), params, {"count": jnp.ones(2)})
    assert theirs["count"].dtype == jnp.float32
    with pytest.raises(TypeError, match="parameter count has dtype int32"):
        adadelta().init(params)


def test_after_a_gradient_too_large_to_square_optax_stands_still_and_we_recover():
    params = jnp.ones(1)
    for optimizer, recovers in ((optax.adadelta(1.0), False), (adadelta(), True)):
        _, state = optimizer.update(jnp.array([1e30]), optimizer.init(params), params)
        for _ in range(3000):
            updates, state = optimizer.update(jnp.ones(1), state, params)
        assert (updates[0] != 0) == recovers


def test_optax_keeps_the_state_of_half_precision_in_it_and_we_keep_float32():
    params = jnp.ones(1, jnp.bfloat16)
    theirs, ours = optax.adadelta(1.0).init(params), adadelta().init(params)
    assert optax.tree.get(theirs, "e_g").dtype == jnp.bfloat16
    assert optax.tree.get(ours, "square_avg").dtype == jnp.float32


def test_the_state_of_optax_has_no_count_and_ours_has_one():
    assert optax.tree.get(optax.adadelta(1.0).init(jnp.ones(1)), "count") is None
    assert optax.tree.get(adadelta().init(jnp.ones(1)), "count") == 0
