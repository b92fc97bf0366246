"""Watch Adadelta choose its step sizes, layer by layer, as Zeiler (2012) does in section 4.3.

A tanh network learns real handwritten digits. At every step, inside the compiled program,
`effective_learning_rate` tells what each weight's gradient is about to be multiplied by, and
`summary` how these rates, and the sizes of the updates, are spread in each layer.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import optax
from digits_network import TRAIN_SIZE, Digits, indices_of_step, train_and_test_digits
from matplotlib.figure import Figure
from train_digits import OneLineErrorParser, whole_number

from adadelta_jax import adadelta
from adadelta_jax.diagnostics import Summary, effective_learning_rate, summary

UNITS = {"lower": (64, 128), "middle": (128, 64), "upper": (64, 10)}  # inputs and outputs


class Watched(NamedTuple):
    """What is seen of a training: for each layer the summaries at every step, [steps] each."""

    learning_rates: dict[str, Summary]
    update_sizes: dict[str, Summary]
    losses: jax.Array  # nats


def initial_params() -> dict[str, dict[str, jax.Array]]:
    """Three dense layers."""
    rng = np.random.default_rng(0)
    return {
        layer: {
            "kernel": jnp.asarray(rng.normal(scale=units[0] ** -0.5, size=units), jnp.float32),
            "bias": jnp.zeros(units[1]),
        }
        for layer, units in UNITS.items()
    }


def logits(params: Any, images: Any) -> jax.Array:
    """What speaks for each of the ten digits, [number, 10]."""
    x = images
    for layer in UNITS:
        x = jnp.tanh(x) if layer != "lower" else x
        x = x @ params[layer]["kernel"] + params[layer]["bias"]
    return x


def mean_loss(params: Any, digits: Digits) -> jax.Array:
    """The mean cross-entropy, in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(
        logits(params, digits.images), digits.labels
    ).mean()


def kernels(tree: Any) -> dict[str, jax.Array]:
    """The weights of each layer alone."""
    return {layer: tree[layer]["kernel"] for layer in UNITS}


@jax.jit
def train(params: Any, digits: Digits, batches: jax.Array) -> tuple[Any, Watched]:
    """The parameters after a step for each row of indices, and what was seen at every step."""
    optimizer = adadelta()

    def step(carry, batch):
        params, state = carry
        loss, grads = jax.value_and_grad(mean_loss)(params, digits.at(batch))
        rates = effective_learning_rate(state)
        updates, state = optimizer.update(grads, state, params)
        sizes = jax.tree.map(jnp.abs, updates)
        watched = Watched(summary(kernels(rates)), summary(kernels(sizes)), loss)
        return (optax.apply_updates(params, updates), state), watched

    (params, _), watched = jax.lax.scan(step, (params, optimizer.init(params)), batches)
    return params, watched


INK = "#1f2937"
# Of Okabe and Ito's colours, which colour-blind readers can tell apart.
STYLES = {"lower": ("#0072b2", "-"), "middle": ("#e69f00", "--"), "upper": ("#009e73", "-.")}


@mpl.rc_context(
    {
        "axes.edgecolor": "#cbd5e1",
        "axes.grid": True,
        "axes.labelcolor": INK,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "figure.constrained_layout.w_pad": 0.1,
        "grid.color": "#e2e8f0",
        "legend.frameon": False,
        "text.color": INK,
        "xtick.color": "#475569",
        "ytick.color": "#475569",
    }
)
def draw(watched: Watched, path: Path) -> None:
    """Medians as lines, in bands from minimum to maximum."""
    last = len(watched.losses)
    steps = np.unique(np.geomspace(1, last, 150).round().astype(int))  # evenly over the log axis
    figure = Figure(figsize=(12, 5), dpi=130, layout="constrained")
    panels = {
        "Effective learning rates": ("√(u + ε) / √(v + ε)", watched.learning_rates),
        "Sizes of the updates": ("|Δx|", watched.update_sizes),
    }
    for axes, (title, (label, summaries)) in zip(
        figure.subplots(1, 2), panels.items(), strict=True
    ):
        for layer, of_layer in summaries.items():
            color, dashes = STYLES[layer]
            minimum, median, maximum = (numbers[steps - 1] for numbers in of_layer)
            axes.fill_between(steps, minimum, maximum, color=color, alpha=0.15)
            name = "{} layer, {} x {}".format(layer, *UNITS[layer])
            axes.plot(steps, median, dashes, color=color, linewidth=1.8, label=name)
        axes.set(title=title, xlabel="step", ylabel=label, xscale="log", yscale="log")
        axes.set_xlim(1, max(last, 2))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_major_formatter("{x:g}")
    sizes = np.concatenate([each.median for each in watched.update_sizes.values()])
    figure.axes[1].set_ylim(bottom=np.min(sizes[sizes > 0]) / 10)  # single updates go to zero
    figure.axes[0].legend(loc="lower right")
    figure.suptitle("The median weight of each layer, in a band from the least to the largest")
    figure.savefig(path)


def report(watched: Watched) -> str:
    """The medians at the beginning, in the middle of the logarithmic way, and at the end."""
    last = len(watched.losses)
    shown = sorted({1, round(last**0.5), round(last**0.75), last})
    lines = [f"{'medians at step':24}" + "".join(f"{step:>11}" for step in shown)]
    for name, summaries in zip(("rate", "update"), watched[:2], strict=True):
        for layer, of_layer in summaries.items():
            numbers = "".join(f"{of_layer.median[step - 1]:>11.3g}" for step in shown)
            lines.append(f"{name + ', ' + layer + ' layer':24}" + numbers)
    lines.append(f"{'loss of the batch, nats':24}")
    lines[-1] += "".join(f"{watched.losses[step - 1]:>11.3g}" for step in shown)
    return "\n".join(lines)


def flag_parser() -> OneLineErrorParser:
    """The flags and their defaults."""
    parser = OneLineErrorParser(
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add, batch = parser.add_argument, whole_number(1, TRAIN_SIZE)
    add("--steps", type=whole_number(1, 100_000), default=2000, help="steps of training")
    add("--batch-size", type=batch, default=100, help=f"digits in a step, 1 to {TRAIN_SIZE}")
    folder = Path("runs/watch_learning_rates")
    add("--output", type=Path, default=folder, help="folder for the picture")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Train, tell what was seen, and draw it."""
    parser = flag_parser()
    flags = parser.parse_args(argv)
    try:
        flags.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"argument --output: cannot write in {flags.output}: {error.strerror}")
    train_set, test_set = train_and_test_digits()
    batches = [indices_of_step(step, flags.batch_size) for step in range(flags.steps)]
    params, watched = train(initial_params(), jax.device_put(train_set), jnp.array(batches))
    if not np.isfinite(watched.losses).all():
        sys.exit("training diverged")
    picture = flags.output / "watch_learning_rates.png"
    draw(jax.device_get(watched), picture)

    right = np.mean(np.argmax(logits(params, test_set.images), -1) == test_set.labels)
    print(report(watched))
    print(f"test accuracy: {100 * right:.2f} %")
    print(f"picture: {picture}")


if __name__ == "__main__":
    main()
