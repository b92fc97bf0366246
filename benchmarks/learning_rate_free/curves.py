"""Trains an optimizer on a small task, and keeps what came out on disk.

One seed gives every optimizer the same initial parameters and the same batches.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import optax
from jax import lax

from benchmarks.common import finished_runs, reporting
from benchmarks.learning_rate_free.tasks import Examples, Params, Task

POINTS = 10  # of a curve
CURVE_EXAMPLES = 1000  # held out, that a point of a curve is scored on at most

Optimizer = optax.GradientTransformation
HeldOut = Literal["validation", "test"]


def as_trained(state: Any, params: Params) -> Params:
    """The parameters that training has reached."""
    del state
    return params


class Contender(NamedTuple):
    """An optimizer, and which parameters it is judged by."""

    made_by: str  # as a user writes it
    make: Callable[[jax.Array | float | None], Optimizer]  # of a learning rate, if it takes one
    eval_params: Callable[[Any, Params], Params] = as_trained  # of its state and the parameters


class Run(NamedTuple):
    """What came of training once."""

    score: float  # after the last step, on all examples held out
    start_loss: float  # of the first batch, before the first step
    losses: list[float]  # the mean over the steps from each point of the curve to the next
    scores: list[float]  # at those points, on `CURVE_EXAMPLES` of the examples held out


def batches(task: Task, examples: int, seed: int) -> np.ndarray:
    """Indices of shape (points, steps, batch): in every epoch each example once, newly shuffled."""
    steps, batch = task.settings["steps"], task.settings["batch"]
    points = min(POINTS, steps)
    rng = np.random.default_rng(seed)
    epochs = -(-steps * batch // examples)
    order = np.concatenate([rng.permutation(examples) for _ in range(epochs)])
    return order[: steps * batch].reshape(points, steps // points, batch)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _train(
    task: Task,
    contender: Contender,
    learning_rate: float | None,
    key: jax.Array,
    train: Examples,
    held_out: Examples,
    batches: jax.Array,
) -> tuple[Params, jax.Array, jax.Array]:
    """The parameters to judge by, the loss of every step, the scores at the curve's points."""
    optimizer = optax.with_extra_args_support(contender.make(learning_rate))

    def step(params_and_state, indices):
        params, state = params_and_state
        batch = Examples(*(values[indices] for values in train))
        loss, grads = jax.value_and_grad(task.loss)(params, batch)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), loss

    def stretch(params_and_state, stretch_batches):
        (params, state), losses = lax.scan(step, params_and_state, stretch_batches)
        score = task.score(contender.eval_params(state, params), held_out)
        return (params, state), (losses, score)

    params = task.initial_params(key)
    start = params, optimizer.init(params)
    (params, state), (losses, scores) = lax.scan(stretch, start, batches)
    return contender.eval_params(state, params), losses, scores


_score = jax.jit(lambda task, params, examples: task.score(params, examples), static_argnums=0)


def train(
    task: Task, contender: Contender, learning_rate: float | None, seed: int, held_out: HeldOut
) -> Run:
    """Train once."""
    parts = task.parts(seed)
    judged: Examples = getattr(parts, held_out)
    params, losses, scores = _train(
        task,
        contender,
        learning_rate,
        jax.random.key(seed),
        parts.train,
        Examples(*(values[:CURVE_EXAMPLES] for values in judged)),
        batches(task, len(parts.train.inputs), seed),
    )
    return Run(
        float(_score(task, params, judged)),
        float(losses[0, 0]),
        losses.mean(1).tolist(),
        scores.tolist(),
    )


def kept(
    folder: Path,
    task: Task,
    contender: Contender,
    learning_rate: float | None,
    seed: int,
    held_out: HeldOut,
) -> Run:
    """What `train` returns: from the folder if it is there, else trained now and put there."""
    versions = reporting.versions()
    depends_on = {
        "task": task.title,
        **task.settings,
        "points": POINTS,
        "curve_examples": CURVE_EXAMPLES,
        "contender": contender.made_by,
        "learning_rate": learning_rate,
        "seed": seed,
        "held_out": held_out,
        **{name: versions[name] for name in ("adadelta-jax", "jax", "optax")},
    }
    name = f"{task.title} {contender.made_by} seed={seed}"
    run = finished_runs.kept(
        folder,
        name,
        depends_on,
        lambda: train(task, contender, learning_rate, seed, held_out)._asdict(),
    )
    return Run(**run)
