"""The network of the paper's section 4.1, the digits it learns, and its training.

784-500-300-10, tanh, softmax cross-entropy, minibatches of 100. The paper gives neither how the
weights start nor how pixels are scaled: here weights are drawn from N(0, 0.1²), biases are zero,
and pixels lie in [0, 1].

Source: Zeiler (2012), arXiv:1212.5701.
"""

import gzip
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

SIZES = (784, 500, 300, 10)
BATCH = 100
EPOCHS = 6
RHO, EPS = 0.95, 1e-6

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data" / "mnist"
FILES = ("train", "t10k")

Params = list[dict[str, jax.Array]]


class Digits(NamedTuple):
    """Images of digits, and which digits they are."""

    images: jax.Array  # float32 [number, 784], from 0 (paper) to 1 (ink)
    labels: jax.Array  # int32 [number], from 0 to 9


def mnist(data_dir: Path | None = None) -> tuple[Digits, Digits]:
    """The 60,000 digits to train on and the 10,000 to test on.

    Args:
        data_dir: A folder with the four original files, gzipped. None: `DATA` if there is such a
            folder, else they are downloaded from OpenML once, by scikit-learn, which keeps them.
    """
    if data_dir is None and DATA.exists():
        data_dir = DATA
    if data_dir is None:
        from sklearn.datasets import fetch_openml

        images, labels = fetch_openml(
            "mnist_784", version=1, return_X_y=True, as_frame=False, parser="liac-arff"
        )
    else:
        images, labels = (
            np.concatenate([_idx(data_dir / f"{part}-{kind}-ubyte.gz") for part in FILES])
            for kind in ("images-idx3", "labels-idx1")
        )
    images = jnp.asarray(images.reshape(-1, SIZES[0]) / 255, jnp.float32)
    labels = jnp.asarray(labels.astype(np.int32))
    return Digits(images[:60_000], labels[:60_000]), Digits(images[60_000:], labels[60_000:])


def _idx(path: Path) -> np.ndarray:
    """The array in an IDX file of bytes: three bytes of magic, the rank, the sizes, the data."""
    content = gzip.decompress(path.read_bytes())
    rank = content[3]
    sizes = np.frombuffer(content, ">u4", rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(sizes)


def random_digits(number: int) -> Digits:
    """What looks like digits to the code, and to nobody else."""
    rng = np.random.default_rng(0)
    images = rng.random((number, SIZES[0]), np.float32)
    return Digits(jnp.asarray(images), jnp.asarray(rng.integers(0, 10, number, np.int32)))


def initial_params(key: jax.Array, sizes: tuple[int, ...] = SIZES) -> Params:
    """A weight matrix and a bias for every layer."""
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        {"weight": 0.1 * jax.random.normal(k, (fan_in, fan_out)), "bias": jnp.zeros(fan_out)}
        for k, fan_in, fan_out in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def logits(params: Params, images: jax.Array) -> jax.Array:
    """From (number, 784) to (number, 10)."""
    *hidden, last = params
    x = images
    for layer in hidden:
        x = jnp.tanh(x @ layer["weight"] + layer["bias"])
    return x @ last["weight"] + last["bias"]


def loss(params: Params, images: jax.Array, labels: jax.Array) -> jax.Array:
    """The mean cross-entropy, in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, images), labels).mean()


def error_percent(params: Params, digits: Digits) -> float:
    """How many of 100 digits the network gets wrong."""
    wrong = jnp.argmax(logits(params, digits.images), -1) != digits.labels
    return 100 * int(jnp.sum(wrong)) / len(digits.labels)


@partial(jax.jit, static_argnames="optimizer", donate_argnames=("params", "state"))
def train_epoch(
    optimizer: optax.GradientTransformationExtraArgs,
    params: Params,
    state: Any,
    digits: Digits,
    key: jax.Array,
) -> tuple[Any, Any]:
    """One pass over the digits, in an order of its own."""
    order = jax.random.permutation(key, len(digits.labels))
    steps = len(order) // BATCH

    def step(params_and_state, batch):
        params, state = params_and_state
        grads = jax.grad(loss)(params, digits.images[batch], digits.labels[batch])
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    batches = order[: steps * BATCH].reshape(steps, BATCH)
    return lax.scan(step, (params, state), batches)[0]


def error_after_training(
    optimizer: optax.GradientTransformationExtraArgs,
    train: Digits,
    test: Digits,
    *,
    seed: int,
    epochs: int = EPOCHS,
) -> float:
    """The test error, in %, of a network that the optimizer trained.

    One seed gives one start and one order of the digits, whatever the optimizer.
    """
    key = jax.random.key(seed)
    params = initial_params(jax.random.fold_in(key, 0))
    state = optimizer.init(params)
    for epoch in range(epochs):
        shuffle = jax.random.fold_in(key, 1 + epoch)
        params, state = train_epoch(optimizer, params, state, train, shuffle)
    return error_percent(params, test)
