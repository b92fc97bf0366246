"""NumPyro's stochastic variational inference, where only the line of the optimizer changes."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

from adadelta_jax import adadelta, label_by_path, param_groups

X = jnp.linspace(-1, 1, 20)
Y = 2 * X + 0.3 * jnp.sin(40 * X)
STEPS = 8
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def regression(x, y):
    slope = numpyro.sample("slope", dist.Normal(0.0, 5.0))
    noise = numpyro.sample("noise", dist.HalfNormal(1.0))
    with numpyro.plate("points", x.size):
        numpyro.sample("y", dist.Normal(slope * x, noise), obs=y)


def inference(optim):
    return SVI(regression, AutoNormal(regression), optim, Trace_ELBO())


def stepped(optim, update):
    """The losses and the guide's parameters, before the first and after every step."""
    svi = inference(optim)
    state = svi.init(jax.random.key(0), X, Y)
    losses, params = [], [svi.get_params(state)]
    step = jax.jit(getattr(svi, update))
    for _ in range(STEPS):
        state, loss = step(state, X, Y)
        losses.append(loss)
        params.append(svi.get_params(state))
    return losses, params


def run(optim, times=1):
    """The losses of every step and the guide's parameters after the last, of runs in a row."""
    svi, state, losses = inference(optim), None, []
    for _ in range(times):
        result = svi.run(
            jax.random.key(0), STEPS // times, X, Y, progress_bar=False, init_state=state
        )
        state = result.state
        losses.extend(result.losses)
    return losses, result.params


@functools.cache
def of_optax(train, *arguments):
    return train(optax.adadelta(1.0), *arguments)


def assert_all_moved(before, after):
    unmoved = [name for name in before if jnp.array_equal(before[name], after[name])]
    assert not unmoved


OURS = {
    "given to SVI": adadelta,
    "optax_to_numpyro": lambda: numpyro.optim.optax_to_numpyro(adadelta()),
}


@pytest.mark.parametrize("update", ["update", "stable_update"])
@pytest.mark.parametrize("ours", OURS.values(), ids=OURS)
def test_every_step_of_inference_is_that_of_optax(ours, update):
    losses, params = stepped(ours(), update)
    chex.assert_trees_all_close((losses, params), of_optax(stepped, update), **CLOSE)
    assert_all_moved(params[0], params[-1])


@pytest.mark.parametrize("ours", OURS.values(), ids=OURS)
def test_a_run_of_inference_is_that_of_optax_and_its_steps(ours):
    found = run(ours())
    chex.assert_trees_all_close(found, of_optax(run), **CLOSE)
    losses, params = of_optax(stepped, "update")
    chex.assert_trees_all_close(found, (losses, params[-1]), **CLOSE)


def test_a_run_continues_from_the_state_of_another():
    chex.assert_trees_all_close(run(adadelta(), times=2), of_optax(run), **CLOSE)


def test_groups_by_the_sites_of_a_guide_train_as_in_a_partition_of_optax():
    by_site = label_by_path({"_auto_scale$": "scale"}, default="location")

    def labels(params):
        return {name: "scale" if name.endswith("scale") else "location" for name in params}

    losses, params = stepped(
        param_groups({"location": {}, "scale": {"learning_rate": 0.1, "rho": 0.95}}, by_site),
        "update",
    )
    theirs = optax.partition(
        {"location": optax.adadelta(1.0), "scale": optax.adadelta(0.1, rho=0.95)}, labels
    )
    chex.assert_trees_all_close((losses, params), stepped(theirs, "update"), **CLOSE)
    assert_all_moved(params[0], params[-1])
