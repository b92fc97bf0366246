"""`adadelta`: what its settings do, and the Optax machinery that it must work in."""

import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import sparse

from adadelta_jax import ScaleByAdadeltaState, adadelta, scale_by_adadelta

PARAMS = {"kernel": jnp.array([[1.0, -2.0], [3.0, 0.5]]), "bias": jnp.array([0.25, -4.0])}
GRADIENTS = [jax.tree.map(lambda p, k=k: jnp.sin(k * p), PARAMS) for k in (1.0, 2.0, 5.0)]


def run(optimizer, params=PARAMS, gradients=GRADIENTS):
    state = optimizer.init(params)
    for grads in gradients:
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def run_by_hand(
    rho=0.9, eps=1e-6, decay=lambda p: 0.0, coupled=True, learning_rates=(1.0, 1.0, 1.0)
):
    """The formula of the docstring in float64 NumPy."""
    params = jax.tree.map(lambda p: np.asarray(p, np.float64), PARAMS)
    results = {}
    for name, theta in params.items():
        v = u = np.zeros_like(theta)
        for gamma, grads in zip(learning_rates, GRADIENTS, strict=True):
            g = np.asarray(grads[name], np.float64)
            if coupled:
                g = g + decay(name) * theta
            v = rho * v + (1 - rho) * g**2
            delta = np.sqrt(u + eps) / np.sqrt(v + eps) * g
            u = rho * u + (1 - rho) * delta**2
            theta = theta - gamma * delta - (0 if coupled else gamma * decay(name) * theta)
        results[name] = theta
    return results


def assert_close(params, expected):
    chex.assert_trees_all_close(params, expected, rtol=2e-6)


def test_the_arguments_of_optax_adadelta_come_in_the_same_order():
    ours = inspect.signature(adadelta).parameters.values()
    theirs = inspect.signature(optax.adadelta).parameters.values()
    assert [p.name for p in ours if p.kind is p.POSITIONAL_OR_KEYWORD] == [p.name for p in theirs]
    assert {p.name: p.default for p in theirs if p.name != "learning_rate"}.items() <= {
        p.name: p.default for p in ours
    }.items()


@pytest.mark.parametrize(
    "arguments", [(), (1.0,), (None,), (jnp.array(1.0),), (lambda count: 1.0,)]
)
def test_without_a_learning_rate_it_is_one_and_descends(arguments):
    params, _ = run(adadelta(*arguments))
    assert_close(params, run_by_hand())


@pytest.mark.parametrize(
    "learning_rate",
    [lambda count: 0.5 / (1 + count), optax.exponential_decay(0.5, 1, 0.5)],
)
def test_a_schedule_gives_the_learning_rate_of_each_step(learning_rate):
    params, _ = run(adadelta(learning_rate))
    assert_close(params, run_by_hand(learning_rates=[float(learning_rate(i)) for i in range(3)]))


def test_rho_and_eps_are_those_of_the_formula():
    params, _ = run(adadelta(rho=0.5, eps=1e-2))
    assert_close(params, run_by_hand(rho=0.5, eps=1e-2))


@pytest.mark.parametrize("coupled", [True, False])
@pytest.mark.parametrize("weight_decay", [0.1, jnp.array(0.1)])
@pytest.mark.parametrize(
    "mask",
    [None, {"kernel": True, "bias": False}, lambda params: {k: k == "kernel" for k in params}],
)
def test_weight_decay_is_coupled_or_decoupled_and_masked(coupled, weight_decay, mask):
    optimizer = adadelta(0.5, 0.9, 1e-6, weight_decay, mask, decoupled_weight_decay=not coupled)
    params, _ = run(optimizer)
    expected = run_by_hand(
        decay=lambda name: 0.1 if mask is None or name == "kernel" else 0.0,
        coupled=coupled,
        learning_rates=[0.5] * 3,
    )
    assert_close(params, expected)


def test_weight_decay_may_be_a_schedule():
    params, _ = run(adadelta(weight_decay=lambda count: jnp.where(count < 100, 0.1, 0.0)))
    assert_close(params, run_by_hand(decay=lambda name: 0.1))


def test_maximize_climbs_what_minimizing_the_negative_descends():
    up, _ = run(adadelta(maximize=True, weight_decay=0.1))
    down, _ = run(
        adadelta(weight_decay=0.1), gradients=[jax.tree.map(jnp.negative, g) for g in GRADIENTS]
    )
    chex.assert_trees_all_equal(up, down)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("learning_rate", [0.1, jnp.array(0.1), np.float64(0.1)])
def test_parameters_keep_their_dtype_whatever_that_of_the_settings(dtype, learning_rate):
    params = jax.tree.map(lambda p: p.astype(dtype), PARAMS)
    gradients = [jax.tree.map(lambda g: g.astype(dtype), grads) for grads in GRADIENTS]
    optimizer = adadelta(learning_rate, weight_decay=jnp.array(0.1))
    updates, state = optimizer.update(gradients[0], optimizer.init(params), params)
    chex.assert_trees_all_equal_dtypes(updates, params)
    updates, _ = jax.jit(lambda lr: adadelta(lr).update(gradients[0], adadelta().init(params)))(
        jnp.array(0.1)
    )
    chex.assert_trees_all_equal_dtypes(updates, params)
    assert optax.tree.get(state, "square_avg")["bias"].dtype == jnp.float32


@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.1}, {"maximize": True}])
@pytest.mark.parametrize("decoupled_weight_decay", [False, True])
def test_a_parameter_whose_gradient_is_none_stays(settings, decoupled_weight_decay):
    optimizer = adadelta(**settings, decoupled_weight_decay=decoupled_weight_decay)
    params, state = run(optimizer)
    grads = {"kernel": GRADIENTS[0]["kernel"], "bias": None}
    updates, new_state = jax.jit(optimizer.update)(grads, state, params)
    np.testing.assert_array_equal(updates["bias"], 0)
    for name in ("square_avg", "acc_delta"):
        before, after = (optax.tree.get(s, name) for s in (state, new_state))
        np.testing.assert_array_equal(after["bias"], before["bias"])
        assert np.any(after["kernel"] != before["kernel"])


@pytest.mark.parametrize("decoupled_weight_decay", [False, True])
def test_a_mask_function_is_given_the_parameters_though_a_gradient_is_none(decoupled_weight_decay):
    optimizer = adadelta(
        weight_decay=0.1,
        weight_decay_mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
        decoupled_weight_decay=decoupled_weight_decay,
    )
    grads = {"kernel": GRADIENTS[0]["kernel"], "bias": None}
    params, _ = run(optimizer, gradients=[grads])
    expected, _ = run(optimizer, gradients=GRADIENTS[:1])
    np.testing.assert_array_equal(params["bias"], PARAMS["bias"])
    np.testing.assert_array_equal(params["kernel"], expected["kernel"])


def test_it_takes_the_extra_arguments_that_other_optimizers_need():
    optimizer = adadelta()
    assert isinstance(optimizer, optax.GradientTransformationExtraArgs)
    updates, _ = optimizer.update(
        GRADIENTS[0], optimizer.init(PARAMS), PARAMS, value=1.0, grad=None
    )
    expected, _ = optimizer.update(GRADIENTS[0], optimizer.init(PARAMS), PARAMS)
    chex.assert_trees_all_equal(updates, expected)


def test_params_may_be_left_out_where_nothing_needs_them():
    optimizer = adadelta()
    with_params = optimizer.update(GRADIENTS[0], optimizer.init(PARAMS), PARAMS)
    chex.assert_trees_all_equal(optimizer.update(GRADIENTS[0], optimizer.init(PARAMS)), with_params)


def test_a_wrong_gradient_is_named_without_the_parameters_too():
    optimizer = adadelta()
    state = optimizer.init({"a": jnp.ones(2), "b": jnp.ones(3), "c": jnp.ones((2, 2))})
    with pytest.raises(TypeError) as error:
        optimizer.update({"a": None, "b": jnp.ones(3, int), "c": None}, state)
    assert str(error.value) == (
        "the gradient of b has dtype int32: it must be floating-point or complex"
    )
    sparse_array = sparse.BCOO.fromdense(jnp.eye(2))
    with pytest.raises(TypeError) as error:
        optimizer.update({"a": None, "b": jnp.ones(3), "c": sparse_array}, state)
    assert str(error.value).startswith("the gradient of c is sparse (BCOO): ")


@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.1, "learning_rate": 0.5}])
def test_injected_hyperparameters_can_be_changed_while_training(settings):
    optimizer = optax.inject_hyperparams(adadelta)(**settings)
    params, state = run(optimizer)
    assert_close(params, run(adadelta(**settings))[0])
    assert set(state.hyperparams) >= {"learning_rate", "rho", "eps", "weight_decay"}
    state.hyperparams["learning_rate"] = jnp.array(0.0)
    updates, _ = jax.jit(optimizer.update)(GRADIENTS[0], state, params)
    chex.assert_trees_all_equal(updates, jax.tree.map(jnp.zeros_like, params))


@pytest.mark.parametrize("first", ["complex64", "bfloat16", "float32"])
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_hyperparameters_injected_in_the_dtype_of_the_first_parameter_step_as_others(
    first, transform
):
    settings = {"learning_rate": 0.5, "rho": 0.75, "eps": 2.0**-20, "weight_decay": 0.125}
    params = {"a": jnp.full(3, 1.5, first), "b": jnp.full((2, 2), -0.25)}
    optimizer, injected = adadelta(**settings), optax.inject_hyperparams(adadelta)(**settings)
    state, injected_state = optimizer.init(params), injected.init(params)
    for _ in range(3):
        updates, injected_state = transform(injected.update)(params, injected_state, params)
        expected, state = transform(optimizer.update)(params, state, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, expected)
        chex.assert_trees_all_close(updates, expected, rtol=2e-7)
    assert jnp.iscomplexobj(injected_state.hyperparams["rho"]) == (first == "complex64")


def test_an_injected_schedule_sets_the_learning_rate():
    schedule = optax.exponential_decay(0.5, 1, 0.5)
    params, _ = run(optax.inject_hyperparams(adadelta)(learning_rate=schedule))
    assert_close(params, run_by_hand(learning_rates=[0.5, 0.25, 0.125]))


def test_multi_steps_takes_one_step_of_the_mean_gradient():
    optimizer = optax.MultiSteps(adadelta(weight_decay=0.1), every_k_schedule=3)
    params, _ = run(optimizer)
    mean = jax.tree.map(lambda *g: sum(g) / 3, *GRADIENTS)
    expected, _ = run(adadelta(weight_decay=0.1), gradients=[mean])
    assert_close(params, expected)


def test_masked_leaves_the_masked_parameters_alone():
    mask = {"kernel": True, "bias": False}
    optimizer = optax.chain(
        optax.masked(adadelta(weight_decay=0.1), mask),
        optax.masked(optax.set_to_zero(), {"kernel": False, "bias": True}),
    )
    params, state = run(optimizer)
    np.testing.assert_array_equal(params["bias"], PARAMS["bias"])
    np.testing.assert_array_equal(params["kernel"], run(adadelta(weight_decay=0.1))[0]["kernel"])
    assert isinstance(optax.tree.get(state, "square_avg")["bias"], optax.MaskedNode)


def test_apply_if_finite_contains_a_gradient_that_is_not_finite():
    optimizer = optax.apply_if_finite(adadelta(), max_consecutive_errors=5)
    bad = jax.tree.map(lambda g: g * jnp.nan, GRADIENTS[0])
    params, state = run(optimizer, gradients=[GRADIENTS[0], bad, *GRADIENTS[1:]])
    chex.assert_trees_all_equal(params, run(adadelta())[0])
    assert state.total_notfinite == 1


def test_tree_map_params_and_tree_get_find_the_accumulators():
    optimizer = adadelta(weight_decay=0.1)
    _, state = run(optimizer)
    doubled = optax.tree.map_params(optimizer, lambda leaf: 2 * leaf, state)
    for name in ("square_avg", "acc_delta"):
        chex.assert_trees_all_equal(
            optax.tree.get(doubled, name),
            jax.tree.map(lambda leaf: 2 * leaf, optax.tree.get(state, name)),
        )
    assert optax.tree.get(state, "count") == 3


def test_the_state_is_the_same_tree_however_the_settings_are_given():
    concrete = adadelta(weight_decay=0.0).init(PARAMS)
    injected = optax.inject_hyperparams(adadelta)(weight_decay=0.0).init(PARAMS).inner_state
    assert jax.tree.structure(concrete) == jax.tree.structure(injected)
    assert sum(isinstance(part, ScaleByAdadeltaState) for part in concrete) == 1


def test_init_is_abstract_and_the_second_step_does_not_recompile():
    optimizer = adadelta(weight_decay=0.1)
    abstract = jax.eval_shape(optimizer.init, PARAMS)
    state = optimizer.init(PARAMS)
    chex.assert_trees_all_equal_shapes_and_dtypes(abstract, state)
    step = jax.jit(chex.assert_max_traces(optimizer.update, n=1))
    for grads in GRADIENTS:
        _, state = step(grads, state, PARAMS)
    chex.assert_trees_all_equal_shapes_and_dtypes(abstract, state)


def test_it_is_vmapped_over_settings_and_scanned_over_steps():
    def final_loss(learning_rate, rho):
        optimizer = adadelta(learning_rate, rho)

        def body(carry, _):
            params, state = carry
            updates, state = optimizer.update(jax.tree.map(jnp.sin, params), state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(body, (PARAMS, optimizer.init(PARAMS)), length=50)
        return optax.tree.sum(jax.tree.map(jnp.cos, params))

    rates, rhos = jnp.array([0.5, 1.0, 2.0]), jnp.array([0.9, 0.95, 0.99])
    together = jax.jit(jax.vmap(final_loss))(rates, rhos)
    alone = jnp.stack([final_loss(rate, rho) for rate, rho in zip(rates, rhos, strict=True)])
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    assert len(set(together.tolist())) == 3


def test_training_can_be_differentiated_with_respect_to_the_settings():
    def loss(settings):
        params, _ = run(adadelta(**settings))
        return optax.tree.norm(params)

    settings = {"learning_rate": 0.5, "rho": 0.9, "eps": 1e-2, "weight_decay": 0.1}
    with jax.enable_x64(True):
        derivatives = jax.grad(loss)(settings)
        for name, value in settings.items():
            step = 1e-4 * value
            higher, lower = (loss(settings | {name: value + sign * step}) for sign in (1, -1))
            np.testing.assert_allclose(derivatives[name], (higher - lower) / (2 * step), rtol=2e-2)


def test_the_parts_can_be_chained_by_hand():
    by_hand = optax.chain(
        optax.add_decayed_weights(0.1),
        scale_by_adadelta(0.95, 1e-4),
        optax.scale_by_learning_rate(0.5),
    )
    chex.assert_trees_all_equal(run(by_hand)[0], run(adadelta(0.5, 0.95, 1e-4, 0.1))[0])
