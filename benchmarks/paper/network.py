"""The network of the paper's section 4.1, the digits it learns, and its training.

784-500-300-10, tanh, softmax cross-entropy, minibatches of 100. The paper gives neither how the
weights start nor how pixels are scaled: `INITIALISATIONS` and `PIXELS` have candidates. Unless one
is named, weights are drawn from N(0, 0.1²) and pixels lie in [0, 1]. Biases start at zero.

Source: Zeiler (2012), arXiv:1212.5701.
"""

import gzip
from collections.abc import Callable, Iterator
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

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data" / "mnist"
FILES = ("train", "t10k")

Params = list[dict[str, jax.Array]]

_initializers = jax.nn.initializers
# How a weight matrix (fan_in, fan_out) starts.
INITIALISATIONS: dict[str, _initializers.Initializer] = {
    "normal_0.1": _initializers.normal(0.1),
    "normal_0.05": _initializers.normal(0.05),
    "normal_0.01": _initializers.normal(0.01),
    "lecun_normal": _initializers.lecun_normal(),
    "lecun_uniform": _initializers.lecun_uniform(),
    "glorot_normal": _initializers.glorot_normal(),
    "glorot_uniform": _initializers.glorot_uniform(),
    # As torch.nn.Linear has it: uniform between ±1/√fan_in.
    "torch": _initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
}
INITIALISATION = "normal_0.1"

# The mean and the standard deviation of all pixels of the digits to train on.
MEAN, DEVIATION = 0.1307, 0.3081
# What the network sees: from images in [0, 1] and the mean image of those to train on.
PIXELS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "0_to_1": lambda images, mean_image: images,
    "minus_1_to_1": lambda images, mean_image: 2 * images - 1,
    "normalised": lambda images, mean_image: (images - MEAN) / DEVIATION,
    "centred": lambda images, mean_image: images - mean_image,
    "standardised": lambda images, mean_image: (images - mean_image) / DEVIATION,
}


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


def scaled(train: Digits, test: Digits, pixels: str) -> tuple[Digits, Digits]:
    """Both sets of digits with pixels as one of `PIXELS` has them."""
    mean_image = train.images.mean(0)

    def rescaled(digits: Digits) -> Digits:
        return digits._replace(images=PIXELS[pixels](digits.images, mean_image))

    return rescaled(train), rescaled(test)


def initial_params(
    key: jax.Array, sizes: tuple[int, ...] = SIZES, initialisation: str = INITIALISATION
) -> Params:
    """A weight matrix, as one of `INITIALISATIONS` has it, and a bias for every layer."""
    draw = INITIALISATIONS[initialisation]
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        {"weight": draw(k, (fan_in, fan_out)), "bias": jnp.zeros(fan_out)}
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


@jax.jit
def number_wrong(params: Params, digits: Digits) -> jax.Array:
    """How many digits the network gets wrong."""
    return jnp.sum(jnp.argmax(logits(params, digits.images), -1) != digits.labels)


def error_percent(params: Params, digits: Digits) -> float:
    """How many of 100 digits the network gets wrong."""
    return 100 * int(number_wrong(params, digits)) / len(digits.labels)


def start(seed: int, initialisation: str = INITIALISATION) -> Params:
    """The parameters with which a network starts."""
    return initial_params(jax.random.fold_in(jax.random.key(seed), 0), SIZES, initialisation)


def epoch_key(seed: int, epoch: int) -> jax.Array:
    """The key for the order of the digits in an epoch."""
    return jax.random.fold_in(jax.random.key(seed), 1 + epoch)


def batches(key: jax.Array, number: int) -> jax.Array:
    """The digits of every step of an epoch: each digit once, int32 [steps, BATCH]."""
    order = jax.random.permutation(key, number)
    steps = number // BATCH
    return order[: steps * BATCH].reshape(steps, BATCH)


@partial(jax.jit, static_argnames="optimizer", donate_argnames=("params", "state"))
def train_epoch(
    optimizer: optax.GradientTransformationExtraArgs,
    params: Params,
    state: Any,
    digits: Digits,
    key: jax.Array,
) -> tuple[Any, Any]:
    """One pass over the digits, in an order of its own."""

    def step(params_and_state, batch):
        params, state = params_and_state
        grads = jax.grad(loss)(params, digits.images[batch], digits.labels[batch])
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    return lax.scan(step, (params, state), batches(key, len(digits.labels)))[0]


def errors_by_epoch(
    optimizer: optax.GradientTransformationExtraArgs,
    train: Digits,
    test: Digits,
    *,
    seed: int,
    epochs: int = EPOCHS,
    initialisation: str = INITIALISATION,
) -> Iterator[float]:
    """The test error, in %, after each epoch of training a network with the optimizer.

    One seed gives one start and one order of the digits, whatever the optimizer.
    """
    params = start(seed, initialisation)
    state = optimizer.init(params)
    for epoch in range(epochs):
        params, state = train_epoch(optimizer, params, state, train, epoch_key(seed, epoch))
        yield error_percent(params, test)


def error_after_training(
    optimizer: optax.GradientTransformationExtraArgs,
    train: Digits,
    test: Digits,
    *,
    seed: int,
    epochs: int = EPOCHS,
) -> float:
    """The test error, in %, of a network that the optimizer trained."""
    *_, last = errors_by_epoch(optimizer, train, test, seed=seed, epochs=epochs)
    return last
