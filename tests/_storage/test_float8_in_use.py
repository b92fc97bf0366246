"""8-bit states in every kind of step, in Optax's wrappers, and in other optimizers."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import export

from adadelta_jax import adadelta, carry_over_state, param_groups, scale_by_adadelta
from adadelta_jax._core.transform import adadelta_states
from adadelta_jax._storage.formats import values
from adadelta_jax.torch_interop import optimizer_from_torch, optimizer_to_torch


def random_params(seed, dtype=jnp.float32):
    draw = np.random.default_rng(seed).standard_normal
    shapes = {"bias": (300,), "kernel": (16, 300)}
    return {name: jnp.asarray(draw(shape), dtype) for name, shape in shapes.items()}


def jitted_step(optimizer):
    return jax.jit(optimizer.update)


PARAMS = random_params(0)
GRADS = [random_params(seed) for seed in (1, 2, 3)]
UINT8 = adadelta(accumulator_dtype="uint8")
STEP = jitted_step(UINT8)


def after_steps(optimizer=UINT8, step=STEP, gradients=GRADS, params=PARAMS):
    """The last updates and state."""
    state, updates = optimizer.init(params), None
    for grads in gradients:
        updates, state = step(grads, state, params)
    return updates, state


def accumulators(state):
    """The v and u of the only Adadelta in a state, decoded."""
    (state,) = adadelta_states(state)
    return {"square_avg": values(state.square_avg), "acc_delta": values(state.acc_delta)}


def is_in_8_bits(state):
    """Whether there are accumulators, and each is one uint8 array."""
    (state,) = adadelta_states(state)
    leaves = jax.tree.leaves((state.square_avg, state.acc_delta))
    return {leaf.dtype.name for leaf in leaves} == {"uint8"}


# --- jit, scan, vmap, donation --------------------------------------------------------------------


def test_a_scan_takes_the_same_steps():
    expected = after_steps()
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *GRADS)

    @jax.jit
    def scanned(state):
        def body(state, grads):
            updates, state = UINT8.update(grads, state, PARAMS)
            return state, updates

        return jax.lax.scan(body, state, stacked)

    state, updates = scanned(UINT8.init(PARAMS))
    updates = jax.tree.map(lambda x: x[-1], updates)
    chex.assert_trees_all_equal(state, expected[1])
    chex.assert_trees_all_close(updates, expected[0], rtol=1e-6)


def test_eager_steps_are_the_same():
    updates, state = after_steps(step=UINT8.update, gradients=GRADS[:2])
    expected_updates, expected_state = after_steps(gradients=GRADS[:2])
    chex.assert_trees_all_equal(state, expected_state)
    chex.assert_trees_all_close(updates, expected_updates, rtol=1e-6)


def test_models_in_a_batch_step_as_each_does_alone():
    models = [random_params(seed) for seed in (4, 5)]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)
    state = jax.vmap(UINT8.init)(batch)
    step = jax.jit(jax.vmap(UINT8.update))
    for _ in range(2):
        updates, state = step(batch, state, batch)
    for i, params in enumerate(models):
        expected_updates, expected_state = after_steps(gradients=[params] * 2, params=params)
        alone = jax.tree.map(lambda x, i=i: x[i], (updates, state))
        chex.assert_trees_all_equal(alone[1], expected_state)
        chex.assert_trees_all_close(alone[0], expected_updates, rtol=1e-6)


def test_seeds_in_a_batch_train_as_each_does_alone():
    """The whole training of every seed, from its initial parameters on."""
    targets = jnp.linspace(-1, 1, 40).reshape(8, 5)

    def trained(seed):
        params = jax.random.normal(jax.random.key(seed), (8, 5))

        def body(carry, _):
            params, state = carry
            updates, state = UINT8.update(params - targets, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(body, (params, UINT8.init(params)), length=20)[0]

    params, state = jax.jit(jax.vmap(trained))(jnp.arange(4))
    assert is_in_8_bits(state)
    for seed in range(4):
        expected_params, expected_state = jax.jit(trained)(seed)
        alone = jax.tree.map(lambda leaf, seed=seed: leaf[seed], (params, state))
        chex.assert_trees_all_close(alone[0], expected_params, rtol=1e-6)
        chex.assert_trees_all_equal(alone[1], expected_state)


@pytest.mark.parametrize("sizes", ["16, 300", "rows, columns"], ids=["fixed", "symbolic"])
def test_an_exported_step_is_the_step(sizes):
    rows, columns = export.symbolic_shape(sizes)
    shapes = {"bias": (columns,), "kernel": (rows, columns)}
    like = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    exported = export.export(STEP)(like, jax.eval_shape(UINT8.init, like), like)
    updates, state = after_steps(step=jax.jit(exported.call))
    expected_updates, expected_state = after_steps()
    chex.assert_trees_all_equal(state, expected_state)
    chex.assert_trees_all_close(updates, expected_updates, rtol=1e-6)


def test_donated_codes_are_overwritten():
    def step(params, state, grads):
        updates, state = UINT8.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params, state = jax.tree.map(jnp.copy, (PARAMS, UINT8.init(PARAMS)))
    buffers = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((params, state))}
    result = jax.jit(step, donate_argnums=(0, 1))(params, state, GRADS[0])
    assert {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(result)} == buffers
    chex.assert_trees_all_equal(result[1], after_steps(gradients=GRADS[:1])[1])


# --- gradients of None ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_gradient_leaves_the_codes_alone_and_gives_a_zero_update(dtype):
    params = random_params(0, dtype)
    _, state = after_steps(gradients=[random_params(1, dtype)], params=params)
    updates, new_state = STEP({**params, "kernel": None}, state, params)
    (old,), (new,) = adadelta_states(state), adadelta_states(new_state)
    for before, after in ((old.square_avg, new.square_avg), (old.acc_delta, new.acc_delta)):
        chex.assert_trees_all_equal(after["kernel"], before["kernel"])
        assert (after["bias"] != before["bias"]).any()
    assert updates["kernel"].dtype == dtype
    assert not updates["kernel"].any()
    assert new.count == 2


def test_without_the_parameters_no_gradient_gives_a_zero_update_too():
    optimizer = scale_by_adadelta(accumulator_dtype="uint8")
    updates, _ = optimizer.update({**PARAMS, "kernel": None}, optimizer.init(PARAMS))
    assert updates["kernel"].dtype == jnp.float32
    chex.assert_trees_all_equal(updates["kernel"], jnp.zeros((16, 300)))


# --- Optax's wrappers -----------------------------------------------------------------------------


def test_masked_parameters_have_no_codes_and_the_others_step_as_alone():
    mask = {"bias": False, "kernel": True}
    optimizer = optax.masked(UINT8, mask)
    updates, state = after_steps(optimizer, jitted_step(optimizer))
    alone = [{"kernel": grads["kernel"]} for grads in GRADS]
    expected_updates, expected = after_steps(gradients=alone, params={"kernel": PARAMS["kernel"]})
    assert is_in_8_bits(state)
    chex.assert_trees_all_equal(jax.tree.leaves(state), jax.tree.leaves(expected))
    chex.assert_trees_all_equal(updates["kernel"], expected_updates["kernel"])
    chex.assert_trees_all_equal(updates["bias"], GRADS[-1]["bias"])


def test_multi_steps_steps_with_the_mean_of_the_gradients():
    optimizer = optax.MultiSteps(UINT8, every_k_schedule=2).gradient_transformation()
    _, state = after_steps(optimizer, jitted_step(optimizer), GRADS[:2])
    mean = jax.tree.map(lambda x, y: (x + y) / 2, *GRADS[:2])
    _, expected = after_steps(gradients=[mean])
    assert is_in_8_bits(state)
    chex.assert_trees_all_close(accumulators(state), accumulators(expected), rtol=1 / 4)
    chex.assert_trees_all_equal(adadelta_states(state)[0].count, jnp.int32(1))


def test_injected_hyperparameters_step_as_constants():
    optimizer = optax.inject_hyperparams(adadelta, static_args=("accumulator_dtype",))(
        learning_rate=0.5, rho=0.95, eps=1e-6, accumulator_dtype="uint8"
    )
    updates, state = after_steps(optimizer, jitted_step(optimizer))
    constant = adadelta(0.5, 0.95, 1e-6, accumulator_dtype="uint8")
    expected_updates, expected = after_steps(constant, jitted_step(constant))
    assert is_in_8_bits(state)
    chex.assert_trees_all_close(updates, expected_updates, rtol=0.1, atol=1e-4)
    chex.assert_trees_all_close(accumulators(state), accumulators(expected), rtol=1 / 4)


def test_apply_if_finite_keeps_the_codes_where_a_gradient_is_not():
    optimizer = optax.apply_if_finite(UINT8, 3)
    step = jitted_step(optimizer)
    _, state = after_steps(optimizer, step)
    broken = {**PARAMS, "kernel": PARAMS["kernel"].at[3, 4].set(jnp.nan)}
    updates, new_state = step(broken, state, PARAMS)
    chex.assert_trees_all_equal(adadelta_states(new_state), adadelta_states(state))
    chex.assert_trees_all_equal(updates, jax.tree.map(jnp.zeros_like, PARAMS))


# --- other optimizers, and torch ------------------------------------------------------------------


def test_a_state_in_the_same_format_is_carried_over_bit_for_bit():
    groups = param_groups(
        {"a": {"accumulator_dtype": "uint8"}, "b": {"accumulator_dtype": "uint8", "rho": 0.5}},
        {"bias": "a", "kernel": "b"},
    )
    _, state = after_steps()
    in_groups = carry_over_state(groups, PARAMS, state)
    (old,) = adadelta_states(state)
    biases, kernels = adadelta_states(in_groups)
    assert kernels.square_avg["kernel"] is old.square_avg["kernel"]
    assert kernels.acc_delta["kernel"] is old.acc_delta["kernel"]
    assert biases.acc_delta["bias"] is old.acc_delta["bias"]
    chex.assert_trees_all_equal(carry_over_state(UINT8, PARAMS, in_groups), state)


def test_a_state_that_changes_its_format_is_rounded_to_nearest():
    float32 = adadelta()
    _, state = after_steps(float32, jitted_step(float32))
    coded = carry_over_state(UINT8, PARAMS, state)
    decoded = carry_over_state(float32, PARAMS, coded)
    assert is_in_8_bits(coded)
    before, after = accumulators(state), accumulators(coded)
    for exact, rounded in zip(*map(jax.tree.leaves, (before, after)), strict=True):
        # Half of a step, of which there are four to an octave of the value plus the offset.
        error = np.abs(rounded - exact)
        assert (error <= (exact + 1.5 * 2.0**-33) / 8 * (1 + 1e-6)).all()
        assert (error > 0).any()
    chex.assert_trees_all_equal(accumulators(decoded), after)
    chex.assert_trees_all_equal(accumulators(carry_over_state(UINT8, PARAMS, decoded)), after)


@pytest.mark.parametrize("other", ["bfloat16", "float16"])
def test_a_state_goes_to_half_precision_and_back(other):
    half = adadelta(accumulator_dtype=other)
    _, state = after_steps()
    there = carry_over_state(half, PARAMS, state)
    back = carry_over_state(UINT8, PARAMS, there)
    assert is_in_8_bits(back)
    # The least step of float16 is 6e-8. Of all else half precision has more bits.
    tolerances = {"rtol": 1 / 8, "atol": 1e-7} if other == "float16" else {"rtol": 0}
    chex.assert_trees_all_close(accumulators(back), accumulators(state), **tolerances)


@pytest.mark.torch
def test_a_state_in_8_bits_goes_to_torch_and_comes_back():
    import torch

    _, state = after_steps()
    mapping = {"layer.bias": "bias", "layer.weight": "kernel"}
    optim_state = optimizer_to_torch(state, PARAMS, mapping, [{"rho": 0.9}])

    parameters = [torch.nn.Parameter(torch.zeros(PARAMS[name].shape)) for name in PARAMS]
    optimizer = torch.optim.Adadelta(parameters)
    optimizer.load_state_dict(optim_state)
    held = accumulators(state)
    for parameter, name in zip(parameters, PARAMS, strict=True):
        for key, accumulator in held.items():
            tensor = optimizer.state[parameter][key]
            np.testing.assert_array_equal(tensor.numpy(), accumulator[name])

    in_float32, opt_state = optimizer_from_torch(optimizer.state_dict(), PARAMS, mapping)
    chex.assert_trees_all_equal_structs(opt_state, in_float32.init(PARAMS))
    chex.assert_trees_all_equal(accumulators(opt_state), held)
    back = carry_over_state(UINT8, PARAMS, opt_state)
    assert is_in_8_bits(back)
    chex.assert_trees_all_equal(accumulators(back), held)
