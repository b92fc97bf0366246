"""Learn Adadelta's learning rate and rho by differentiating through whole trainings with it.

A training of a small network on real handwritten digits is one function of these two settings: its
steps are unrolled by `jax.lax.scan`, and `jax.grad` goes through all of them, Adadelta's own
arithmetic included. Every meta-step draws new batches, trains from scratch, and moves the settings
down the gradient of the loss at the end. Both are judged on trainings with batches, and on digits,
from which nothing was learned.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from digits_network import TRAIN_SIZE, Digits, initial_params, mean_loss, train_and_test_digits
from tqdm import trange
from train_digits import OneLineErrorParser, whole_number

from adadelta_jax import adadelta

HIDDEN_UNITS = 32
TRAININGS_TO_JUDGE_BY = 8


class Settings(NamedTuple):
    """What is learned: of any value, so that no meta-step can leave the range."""

    log_learning_rate: Any
    logit_rho: Any

    @property
    def values(self) -> tuple[Any, Any]:
        """The learning rate, above 0, and rho, between 0 and 1."""
        return jnp.exp(self.log_learning_rate), jax.nn.sigmoid(self.logit_rho)


def train(settings: Settings, params: Any, batches: Digits) -> Any:
    """The parameters after one step of Adadelta for each batch."""
    optimizer = adadelta(*settings.values)

    def step(carry, batch):
        params, state = carry
        grads = jax.grad(mean_loss)(params, batch)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), batches)
    return params


def loss_after_training(settings: Settings, params: Any, batches: Digits, judges: Digits):
    """The mean cross-entropy in nats of the trained network on `judges`."""
    return mean_loss(train(settings, params, batches), judges)


def draw_batches(rng: np.random.Generator, digits: Digits, steps: int, batch_size: int) -> Digits:
    """Random digits for each step, [steps, batch size, ...]."""
    return digits.at(rng.integers(TRAIN_SIZE, size=(steps, batch_size)))


def learn(
    settings: Settings,
    params: Any,
    digits: Digits,
    draw: Callable[[], Digits],
    *,
    meta_steps: int,
    meta_learning_rate: float,
) -> Settings:
    """The settings after as many meta-steps of Adam."""
    # Now and then the gradient through a hundred steps is huge: it must not spoil the averages.
    meta_optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(meta_learning_rate))

    @jax.jit
    def meta_step(settings, meta_state, batches):
        loss, grads = jax.value_and_grad(loss_after_training)(settings, params, batches, digits)
        updates, meta_state = meta_optimizer.update(grads, meta_state)
        return optax.apply_updates(settings, updates), meta_state, loss

    meta_state = meta_optimizer.init(settings)
    with trange(meta_steps, desc="meta-step") as bar:
        for number in bar:
            settings, meta_state, loss = meta_step(settings, meta_state, draw())
            if not jnp.isfinite(loss):
                sys.exit(f"training diverged: the loss is {loss} in meta-step {number + 1}")
            bar.set_postfix_str(f"train loss {loss:.4f}", refresh=False)
    return settings


def number_inside(lowest: float, highest: float) -> Callable[[str], float]:
    """An argparse type: a number between the two, and neither of them."""

    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = highest
        if not lowest < number < highest:
            bounds = f"above {lowest:g}" + ("" if np.isinf(highest) else f" and below {highest:g}")
            raise argparse.ArgumentTypeError(f"must be a number {bounds}, got {text}")
        return number

    return parse


def flag_parser() -> OneLineErrorParser:
    """The flags and their defaults."""
    parser = OneLineErrorParser(
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    count, batch = whole_number(1, 1_000_000), whole_number(1, TRAIN_SIZE)
    rate, rho = number_inside(0, np.inf), number_inside(0, 1)
    add("--steps", type=count, default=100, help="steps of a training, at least 1")
    add("--batch-size", type=batch, default=32, help=f"digits in a step, 1 to {TRAIN_SIZE}")
    add("--learning-rate", type=rate, default=1.0, help="to start from, above 0")
    add("--rho", type=rho, default=0.9, help="to start from, between 0 and 1")
    add("--meta-steps", type=count, default=60, help="trainings to learn from, at least 1")
    add("--meta-learning-rate", type=rate, default=0.1, help="Adam's, above 0")
    add("--seed", type=whole_number(0, 2**31 - 1), default=0, help="of the batches")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Learn the settings, and tell what a training loses with them, before and after."""
    flags = flag_parser().parse_args(argv)
    train_set, test_set = train_and_test_digits()
    params = initial_params(HIDDEN_UNITS)
    rates = jnp.array([flags.learning_rate, flags.rho])
    before = Settings(jnp.log(rates[0]), jax.scipy.special.logit(rates[1]))
    learning_rng, judging_rng = np.random.default_rng(flags.seed).spawn(2)
    draw = partial(draw_batches, learning_rng, train_set, flags.steps, flags.batch_size)

    after = learn(
        before,
        params,
        train_set,
        draw,
        meta_steps=flags.meta_steps,
        meta_learning_rate=flags.meta_learning_rate,
    )

    judge = jax.jit(loss_after_training)
    fresh = [
        draw_batches(judging_rng, train_set, flags.steps, flags.batch_size)
        for _ in range(TRAININGS_TO_JUDGE_BY)
    ]
    print(f"test loss after {flags.steps} steps, the mean of {TRAININGS_TO_JUDGE_BY} trainings:")
    for name, settings in {"before": before, "after": after}.items():
        learning_rate, rho = settings.values
        loss = np.mean([judge(settings, params, batches, test_set) for batches in fresh])
        print(f"{name + ':':7} {loss:.4f} nats, learning rate {learning_rate:.4g}, rho {rho:.4f}")


if __name__ == "__main__":
    main()
