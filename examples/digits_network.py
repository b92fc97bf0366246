"""The digits, the network and the batches that the examples on many devices share."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

TRAIN_SIZE, TEST_SIZE = 1400, 397


class Digits(NamedTuple):
    """Scans of 8 x 8 pixels, and which digits they are."""

    images: Any  # [number, 64], from 0 (paper) to 1 (ink)
    labels: Any  # int32 [number], from 0 to 9

    def at(self, indices: Any) -> "Digits":
        """Those digits alone, in that order."""
        return Digits(self.images[indices], self.labels[indices])


def train_and_test_digits() -> tuple[Digits, Digits]:
    """The same 1400 digits to learn from and 397 to be tested on every time, in JAX's float."""
    scans, labels = load_digits(return_X_y=True)
    digits = Digits((scans / 16).astype(jnp.result_type(float)), labels.astype(np.int32))
    train, test = train_test_split(
        np.arange(len(labels)),
        train_size=TRAIN_SIZE,
        test_size=TEST_SIZE,
        stratify=labels,
        random_state=0,
    )
    return digits.at(train), digits.at(test)


def indices_of_step(step: int, size: int) -> np.ndarray:
    """Which training digits a step learns from: always the same, so a run can go on from any."""
    return np.random.default_rng(step).choice(TRAIN_SIZE, size, replace=False)


def initial_params(width: int = 128) -> dict[str, dict[str, np.ndarray]]:
    """The parameters of two dense layers with that many hidden units, in JAX's float."""
    rng, dtype = np.random.default_rng(0), jnp.result_type(float)

    def layer(inputs, outputs):
        kernel = rng.normal(scale=inputs**-0.5, size=(inputs, outputs))
        return {"kernel": kernel.astype(dtype), "bias": np.zeros(outputs, dtype)}

    return {"hidden": layer(64, width), "out": layer(width, 10)}


def logits(params: Any, images: Any) -> jax.Array:
    """What speaks for each of the ten digits, [number, 10]."""
    hidden = jnp.tanh(images @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return hidden @ params["out"]["kernel"] + params["out"]["bias"]


def mean_loss(params: Any, digits: Digits) -> jax.Array:
    """The mean cross-entropy, in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(
        logits(params, digits.images), digits.labels
    ).mean()


@jax.jit
def loss_and_accuracy(params: Any, digits: Digits) -> tuple[jax.Array, jax.Array]:
    """The mean cross-entropy in nats, and the percentage of digits that are read correctly."""
    right = jnp.argmax(logits(params, digits.images), -1) == digits.labels
    return mean_loss(params, digits), 100 * jnp.mean(right)
