"""What is compiled, and how often: once for each shape and dtype, whatever the settings."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adadelta_jax import adadelta, scale_by_adadelta

PARAMS = {"kernel": jnp.ones((3, 5)), "bias": jnp.zeros(5), "half": jnp.ones(7, jnp.bfloat16)}


@pytest.fixture
def compilations():
    """A list that gains an entry for every program that XLA compiles."""
    compiled = []

    def listen(event, *_, **__):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield compiled
    jax.monitoring.unregister_event_duration_listener(listen)


def steps(optimizer, count, state=None):
    state = optimizer.init(PARAMS) if state is None else state
    for t in range(count):
        grads = optax.tree.full_like(PARAMS, np.float32(0.1) * (t + 1))
        _, state = optimizer.update(grads, state, PARAMS)
    return jax.block_until_ready(state)


def injected(**settings):
    return optax.inject_hyperparams(adadelta, hyperparam_dtype=jnp.float32)(**settings)


@pytest.mark.parametrize(
    "make",
    [adadelta, scale_by_adadelta, injected],
    ids=["adadelta", "scale_by_adadelta", "inject_hyperparams"],
)
def test_an_eager_step_compiles_nothing_after_the_first_two(compilations, make):
    optimizer = make(rho=0.9)
    state = steps(optimizer, 2)
    compilations.clear()
    steps(optimizer, 3, state)
    assert not compilations


def test_a_changed_injected_setting_compiles_nothing(compilations):
    optimizer = injected(learning_rate=1.0, rho=0.9, weight_decay=0.1)
    state = steps(optimizer, 2)
    rho, rate = jnp.float32(0.5), jnp.float32(0.1)
    compilations.clear()
    steps(optimizer, 2, optax.tree.set(state, rho=rho, learning_rate=rate))
    assert not compilations


@pytest.mark.parametrize("accumulator_dtype", [None, "bfloat16", "uint8"])
def test_a_new_optimizer_with_other_settings_compiles_nothing(compilations, accumulator_dtype):
    def settings(x):
        return {"learning_rate": x, "rho": 1 - x, "eps": x / 10, "weight_decay": x}

    steps(adadelta(**settings(0.1), accumulator_dtype=accumulator_dtype), 2)
    compilations.clear()
    steps(adadelta(**settings(0.2), accumulator_dtype=accumulator_dtype), 2)
    assert not compilations


def test_an_eager_vmap_over_settings_compiles_nothing_for_other_settings(compilations):
    def after_two_steps(rho, eps):
        return steps(adadelta(rho=rho, eps=eps), 2)[2].square_avg

    jax.vmap(after_two_steps)(jnp.array([0.9, 0.5]), jnp.array([1e-6, 1e-4]))
    compilations.clear()
    averages = jax.vmap(after_two_steps)(jnp.array([0.8, 0.7]), jnp.array([1e-5, 1e-3]))
    assert not compilations
    np.testing.assert_allclose(averages["bias"][0], 0.8 * 0.2 * 0.01 + 0.2 * 0.04, rtol=1e-6)


@pytest.mark.parametrize("accumulator_dtype", [None, "bfloat16", "uint8"])
def test_a_jitted_step_of_many_leaves_holds_the_rule_once_for_each_shape(accumulator_dtype):
    optimizer = adadelta(accumulator_dtype=accumulator_dtype)
    params = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in [(64,), (64, 96)] * 50]

    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = jax.eval_shape(optimizer.init, params)
    program = jax.jit(step).lower(params, state, params).as_text()
    assert program.count("stablehlo.sqrt") == 2


def test_outside_a_trace_nothing_is_done_for_a_compiler(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("an eager step asked for the platform")

    optimizer = adadelta(weight_decay=0.1)
    monkeypatch.setattr("jax.lax.platform_dependent", refuse)
    steps(optimizer, 1)
    with pytest.raises(AssertionError, match="asked for the platform"):
        jax.jit(lambda: steps(optimizer, 1))()
