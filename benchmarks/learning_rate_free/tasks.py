"""Four small tasks on real data that an optimizer is tried on, each trained in seconds.

A task is a function to go down and a score to judge by, the lower the better. A seed gives the
initial parameters, the order of the training examples and, where the data come without a test set,
which examples are tested on. The examples to validate on are the same for every seed and are never
tested on, so that what is tuned on them has not seen the test.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from sklearn.datasets import load_diabetes, load_digits

from benchmarks.common.networks import CNN, CharacterModel, help_texts
from benchmarks.paper import network as paper_network

Params = Any

PENALTY = 0.05  # on the squared weights of the regression, against overfitting


class Examples(NamedTuple):
    """What the network sees, and what it is to say; the first dimension counts examples."""

    inputs: jax.Array
    targets: jax.Array


class Parts(NamedTuple):
    """The examples of a task."""

    train: Examples
    validation: Examples
    test: Examples


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """What to learn, from what, and how it is judged.

    `settings` names all that a score depends on but the optimizer and the seed: among them the
    number of steps and the examples in a batch.
    """

    title: str
    score_name: str
    settings: dict[str, Any]
    parts: Callable[[int], Parts]  # of a seed
    initial_params: Callable[[jax.Array], Params]  # of a key
    loss: Callable[[Params, Examples], jax.Array]
    score: Callable[[Params, Examples], jax.Array]
    # What the best constant answer scores, learnt from the first examples, on the second.
    constant_score: Callable[[Examples, Examples], float]


class Perceptron(nn.Module):
    """Dense layers of these sizes, with ReLU between them."""

    sizes: tuple[int, ...]

    @nn.compact
    def __call__(self, x):
        """From (batch, features) to (batch, the last size)."""
        *hidden, last = self.sizes
        for size in hidden:
            x = nn.relu(nn.Dense(size)(x))
        return nn.Dense(last)(x)


def cross_entropy(model: nn.Module, params: Params, examples: Examples) -> jax.Array:
    """The mean over everything that is to be classified, in nats."""
    logits = jnp.asarray(model.apply(params, examples.inputs))
    return optax.softmax_cross_entropy_with_integer_labels(logits, examples.targets).mean()


def error_percent(model: nn.Module, params: Params, examples: Examples) -> jax.Array:
    """How many of 100 are put into a wrong class; an answer that is not finite is wrong."""
    logits = jnp.asarray(model.apply(params, examples.inputs))
    right = (jnp.argmax(logits, -1) == examples.targets) & jnp.isfinite(logits).all(-1)
    return 100 * (1 - right.mean())


def penalised_squares(model: nn.Module, params: Params, examples: Examples) -> jax.Array:
    """Half the mean squared error, and the penalty on weights that keeps the network simple."""
    weights = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim > 1]
    penalty = PENALTY / 2 * optax.tree.norm(weights, squared=True)
    return mean_squared_error(model, params, examples) / 2 + penalty


def mean_squared_error(model: nn.Module, params: Params, examples: Examples) -> jax.Array:
    """The mean of the squared differences."""
    predicted = jnp.asarray(model.apply(params, examples.inputs))[:, 0]
    return jnp.mean((predicted - examples.targets) ** 2)


def majority_error(train: Examples, held_out: Examples) -> float:
    """The error, in %, of always saying the most frequent class."""
    return float(100 * jnp.mean(held_out.targets != jnp.argmax(jnp.bincount(train.targets))))


def unigram_nats(train: Examples, held_out: Examples) -> float:
    """The cross-entropy, in nats, of the frequencies of the classes."""
    counts = jnp.bincount(train.targets.ravel(), length=int(held_out.targets.max()) + 1) + 1
    return float(-jnp.log(counts / counts.sum())[held_out.targets].mean())


def take(inputs: Any, targets: Any, indices: Any) -> Examples:
    """The examples at these indices."""
    return Examples(jnp.asarray(inputs[indices]), jnp.asarray(targets[indices]))


def split(
    number: int, validation: int, test: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices to train on, validate on and test on: the first and last are drawn by the seed."""
    fixed = np.random.default_rng(0).permutation(number)
    rest = np.random.default_rng(seed).permutation(fixed[validation:])
    return rest[test:], fixed[:validation], rest[:test]


def digits(quick: bool) -> Task:
    """Scans of 8 x 8 pixels, classified by a multilayer perceptron."""
    settings = {"sizes": (8, 10) if quick else (128, 64, 10), "validation": 300, "test": 397}
    settings |= {"batch": 50, "steps": 4 if quick else 500}
    model = Perceptron(settings["sizes"])

    def parts(seed):
        scans, labels = load_digits(return_X_y=True)
        scans, labels = (scans / 16).astype(np.float32), labels.astype(np.int32)
        where = split(len(labels), settings["validation"], settings["test"], seed)
        return Parts(*(take(scans, labels, indices) for indices in where))

    return Task(
        "digits, a perceptron",
        "test error, %",
        settings,
        parts,
        lambda key: model.init(key, jnp.zeros((1, 64))),
        functools.partial(cross_entropy, model),
        functools.partial(error_percent, model),
        majority_error,
    )


def mnist(quick: bool, data_dir: Path | None) -> Task:
    """The first of MNIST's digits to train on, classified by a convolutional network."""
    settings = {"channels": 2 if quick else 4, "train": 100 if quick else 10_000}
    settings |= {"validation": 100 if quick else 5_000, "batch": 50, "steps": 4 if quick else 400}
    model = CNN(settings["channels"])
    load = functools.cache(paper_network.mnist)

    def parts(seed):
        del seed  # MNIST comes with a test set
        if quick:
            known, test = paper_network.random_digits(200), paper_network.random_digits(100)
        else:
            known, test = load(data_dir)
        number, validation = settings["train"], settings["validation"]
        images = known.images.reshape(-1, 28, 28, 1)
        return Parts(
            take(images, known.labels, slice(number)),
            take(images, known.labels, slice(len(images) - validation, None)),
            Examples(test.images.reshape(-1, 28, 28, 1), test.labels),
        )

    return Task(
        "MNIST, a CNN",
        "test error, %",
        settings,
        parts,
        lambda key: model.init(key, jnp.zeros((1, 28, 28, 1))),
        functools.partial(cross_entropy, model),
        functools.partial(error_percent, model),
        majority_error,
    )


def diabetes(quick: bool) -> Task:
    """How far diabetes goes on in a year, predicted from ten measurements of a patient."""
    settings = {"sizes": (8, 1) if quick else (64, 32, 1), "validation": 80, "test": 100}
    settings |= {"penalty": PENALTY, "batch": 32, "steps": 4 if quick else 1000}
    model = Perceptron(settings["sizes"])
    measurements, progress = map(np.asarray, load_diabetes(return_X_y=True, scaled=False))

    def standardised(values: np.ndarray, train: np.ndarray) -> np.ndarray:
        return ((values - values[train].mean(0)) / values[train].std(0)).astype(np.float32)

    def parts(seed):
        where = split(len(progress), settings["validation"], settings["test"], seed)
        inputs, targets = (standardised(values, where[0]) for values in (measurements, progress))
        return Parts(*(take(inputs, targets, indices) for indices in where))

    def root_mean_square(params, examples):
        return jnp.sqrt(mean_squared_error(model, params, examples))

    def constant_score(train, held_out):
        return float(jnp.sqrt(jnp.mean((held_out.targets - train.targets.mean()) ** 2)))

    return Task(
        "diabetes, a perceptron",
        "test RMSE, standard deviations",
        settings,
        parts,
        lambda key: model.init(key, jnp.zeros((1, measurements.shape[1]))),
        functools.partial(penalised_squares, model),
        root_mean_square,
        constant_score,
    )


def text(quick: bool) -> Task:
    """The help texts of Python, a character after the other, predicted by a transformer."""
    settings = {"width": 16 if quick else 64, "depth": 1 if quick else 2}
    settings |= {"context": 8 if quick else 32, "batch": 16, "steps": 4 if quick else 1000}
    characters, known = help_texts()
    known = known[:5000] if quick else known
    model = CharacterModel(characters, settings["width"], settings["depth"])

    def parts(seed):
        del seed  # the last tenth is tested on, as one does with a text
        context = settings["context"]
        excerpts = known[: len(known) // (context + 1) * (context + 1)].reshape(-1, context + 1)
        excerpts = excerpts.astype(np.int32)
        tenth = len(excerpts) // 10
        where = slice(-2 * tenth), slice(-2 * tenth, -tenth), slice(-tenth, None)
        return Parts(*(take(excerpts[:, :-1], excerpts[:, 1:], indices) for indices in where))

    loss = functools.partial(cross_entropy, model)
    return Task(
        "text, a transformer",
        "test loss, nats a character",
        settings,
        parts,
        lambda key: model.init(key, jnp.zeros((1, settings["context"]), jnp.int32)),
        loss,
        loss,
        unigram_nats,
    )


def tasks(quick: bool, data_dir: Path | None = None) -> dict[str, Task]:
    """By name, the four."""
    return {
        "digits": digits(quick),
        "mnist": mnist(quick, data_dir),
        "diabetes": diabetes(quick),
        "text": text(quick),
    }
