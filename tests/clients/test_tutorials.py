"""The digits of the MNIST tutorials of Equinox and Flax, where one line names the optimizer."""

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from sklearn.datasets import load_digits

from adadelta_jax import adadelta

STEPS, BATCH, TESTED = 10, 32, 64
CLOSE = {"rtol": 1e-5, "atol": 1e-6}
SCANS, LABELS = load_digits(return_X_y=True)
SCANS = (SCANS[: STEPS * BATCH + TESTED] / 16).astype(np.float32).reshape(-1, 8, 8)
BATCHES = [(SCANS[i : i + BATCH], LABELS[i : i + BATCH]) for i in range(0, STEPS * BATCH, BATCH)]
HELD_OUT = (SCANS[STEPS * BATCH :], LABELS[STEPS * BATCH : STEPS * BATCH + TESTED])


class Convolutional(eqx.Module):
    """A small network in a list of layers, some of which are functions."""

    layers: list

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.layers = [
            eqx.nn.Conv2d(1, 4, kernel_size=3, key=keys[0]),
            eqx.nn.MaxPool2d(kernel_size=2),
            jax.nn.relu,
            jnp.ravel,
            eqx.nn.Linear(100, 16, key=keys[1]),
            jax.nn.sigmoid,
            eqx.nn.Linear(16, 10, key=keys[2]),
            jax.nn.log_softmax,
        ]

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def cross_entropy(model, scans, labels):
    log_probabilities = jax.vmap(model)(scans[:, None])
    return -jnp.mean(jnp.take_along_axis(log_probabilities, labels[:, None], axis=1))


def trained_by_equinox(optim, given):
    """The losses and parameters after every step, and the held-out losses at the ends."""
    model = Convolutional(jax.random.key(0))
    opt_state = optim.init(eqx.filter(model, eqx.is_array))

    @eqx.filter_jit
    def make_step(model, opt_state, scans, labels):
        loss, grads = eqx.filter_value_and_grad(cross_entropy)(model, scans, labels)
        updates, opt_state = optim.update(grads, opt_state, given(model))
        return eqx.apply_updates(model, updates), opt_state, loss

    evaluate = eqx.filter_jit(cross_entropy)
    after, held_out = [], [evaluate(model, *HELD_OUT)]
    for scans, labels in BATCHES:
        model, opt_state, loss = make_step(model, opt_state, scans, labels)
        after.append((loss, eqx.filter(model, eqx.is_array)))
    return after, [*held_out, evaluate(model, *HELD_OUT)]


GIVEN = {
    "the arrays": lambda model: eqx.filter(model, eqx.is_array),
    "the whole model": lambda model: model,
}


@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
def test_the_tutorial_of_equinox_trains_as_with_optax(given):
    after, (first, last) = trained_by_equinox(adadelta(), given)
    theirs, _ = trained_by_equinox(optax.adadelta(1.0), given)
    chex.assert_trees_all_close(after, theirs, **CLOSE)
    assert last < first


class Normalised(nnx.Module):
    """A small network with convolutions, batch norm, pooling and dropout."""

    def __init__(self, *, rngs):
        self.conv1 = nnx.Conv(1, 4, kernel_size=(3, 3), rngs=rngs)
        self.batch_norm1 = nnx.BatchNorm(4, rngs=rngs)
        self.dropout1 = nnx.Dropout(0.025, rngs=rngs)
        # Without a bias before the batch norm: its gradient would be rounding errors alone.
        self.conv2 = nnx.Conv(4, 4, kernel_size=(3, 3), use_bias=False, rngs=rngs)
        self.batch_norm2 = nnx.BatchNorm(4, rngs=rngs)
        self.linear1 = nnx.Linear(16, 16, rngs=rngs)
        self.dropout2 = nnx.Dropout(0.025, rngs=rngs)
        self.linear2 = nnx.Linear(16, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.batch_norm1(self.dropout1(self.conv1(x))))
        x = nnx.avg_pool(x, window_shape=(2, 2), strides=(2, 2))
        x = nnx.relu(self.batch_norm2(self.conv2(x)))
        x = nnx.avg_pool(x, window_shape=(2, 2), strides=(2, 2))
        x = nnx.relu(self.dropout2(self.linear1(x.reshape(x.shape[0], -1))))
        return self.linear2(x)


def loss_and_logits(model, scans, labels):
    logits = model(scans[..., None])
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), logits


def trained_by_flax(tx):
    """The metrics, parameters and averages after every step, and those held out at the ends."""
    # These keys take less time to compile than the default ones.
    model = Normalised(rngs=nnx.Rngs(jax.random.key(0, impl="rbg")))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    metrics = nnx.MultiMetric(accuracy=nnx.metrics.Accuracy(), loss=nnx.metrics.Average("loss"))

    @nnx.jit
    def train_step(model, optimizer, metrics, scans, labels):
        grad_fn = nnx.value_and_grad(loss_and_logits, has_aux=True)
        (loss, logits), grads = grad_fn(model, scans, labels)
        metrics.update(loss=loss, logits=logits, labels=labels)
        optimizer.update(model, grads)

    @nnx.jit
    def eval_step(model, metrics, scans, labels):
        loss, logits = loss_and_logits(model, scans, labels)
        metrics.update(loss=loss, logits=logits, labels=labels)

    def measured():
        found = metrics.compute()
        metrics.reset()
        return found

    def evaluate():
        model.eval()
        eval_step(model, metrics, *HELD_OUT)
        model.train()
        return measured()

    after, held_out = [], [evaluate()]
    for scans, labels in BATCHES:
        train_step(model, optimizer, metrics, scans, labels)
        trained = nnx.to_pure_dict(nnx.state(model, (nnx.Param, nnx.BatchStat)))
        after.append((measured(), trained))
    return after, [*held_out, evaluate()]


def test_the_tutorial_of_flax_trains_as_with_optax():
    after, (first, last) = trained_by_flax(adadelta())
    theirs, _ = trained_by_flax(optax.adadelta(1.0))
    chex.assert_trees_all_close(after, theirs, **CLOSE)
    assert last["loss"] < first["loss"]
