"""A network that learns handwritten digits, trained by torch and by JAX side by side."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

from adadelta_jax import adadelta

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")

STEPS, BATCH, HIDDEN, CLASSES = 200, 64, 32, 10


@functools.cache
def problem():
    """The initial weights of both, and the batches of pixels in [0, 1] and of labels."""
    pixels, labels = load_digits(return_X_y=True)
    random = np.random.default_rng(0)
    rows = np.stack([random.choice(len(labels), BATCH, replace=False) for _ in range(STEPS)])
    weights = {
        "hidden_kernel": random.normal(0, 1 / np.sqrt(pixels.shape[1]), (pixels.shape[1], HIDDEN)),
        "hidden_bias": np.zeros(HIDDEN),
        "output_kernel": random.normal(0, 1 / np.sqrt(HIDDEN), (HIDDEN, CLASSES)),
        "output_bias": np.zeros(CLASSES),
    }
    return weights, pixels[rows] / 16, labels[rows]


@functools.cache
def losses_of_torch(dtype, foreach):
    weights, pixels, labels = problem()
    dtype = getattr(torch, dtype)
    params = {name: torch.tensor(w, dtype=dtype, requires_grad=True) for name, w in weights.items()}
    optimizer = torch.optim.Adadelta(params.values(), foreach=foreach)
    losses = []
    for x, y in zip(torch.tensor(pixels, dtype=dtype), torch.tensor(labels), strict=True):
        hidden = torch.tanh(x @ params["hidden_kernel"] + params["hidden_bias"])
        logits = hidden @ params["output_kernel"] + params["output_bias"]
        loss = torch.nn.functional.cross_entropy(logits, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses)


@functools.cache
def losses_of_jax(dtype):
    weights, pixels, labels = problem()
    optimizer = adadelta()

    def loss_of(params, x, y):
        hidden = jnp.tanh(x @ params["hidden_kernel"] + params["hidden_bias"])
        logits = hidden @ params["output_kernel"] + params["output_bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    @jax.jit
    def step(params, state, x, y):
        loss, grads = jax.value_and_grad(loss_of)(params, x, y)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    with jax.enable_x64(dtype == "float64"):
        params = {name: jnp.asarray(w, dtype) for name, w in weights.items()}
        state = optimizer.init(params)
        losses = []
        for x, y in zip(jnp.asarray(pixels, dtype), labels, strict=True):
            params, state, loss = step(params, state, x, y)
            losses.append(loss.item())
    return np.array(losses)


# Both sum up to 64 products in orders of their own, off by some √64 = 8 unit roundoffs, and 200
# steps add up such errors as a random walk, √200 = 14: some 100 unit roundoffs of the loss.
@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize(("dtype", "unit_roundoff"), [("float64", 2**-53), ("float32", 2**-24)])
def test_a_network_learns_digits_as_in_torch_loss_by_loss(dtype, unit_roundoff, foreach):
    ours, theirs = losses_of_jax(dtype), losses_of_torch(dtype, foreach)
    np.testing.assert_allclose(ours, theirs, rtol=100 * unit_roundoff, atol=0)
    assert ours[-1] < ours[0] / 5
