"""Train a small convolutional network on real handwritten digits with Adadelta.

The digits are the 1797 scans of 8 x 8 pixels that come with scikit-learn, so nothing is downloaded.
The run takes seconds on a laptop, prints the accuracy on digits that the network has never seen,
and draws how it got there.
"""

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple, NoReturn

import matplotlib as mpl
import numpy as np
import optax
from flax import nnx
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedShuffleSplit
from tqdm import tqdm

from adadelta_jax import adadelta

TRAIN_SIZE, TEST_SIZE = 1400, 397


class Digits(NamedTuple):
    """Scans of digits, and which digits they are."""

    images: np.ndarray  # float32 [number, 8, 8, 1], from 0 (paper) to 1 (ink)
    labels: np.ndarray  # int32 [number], from 0 to 9

    def at(self, indices: np.ndarray) -> "Digits":
        """Those digits alone, in that order."""
        return Digits(self.images[indices], self.labels[indices])


def train_and_test_sets() -> dict[str, Digits]:
    """Always the same split, whatever the seed, with every digit as frequent in both parts."""
    scans, labels = load_digits(return_X_y=True)
    digits = Digits((scans / 16).reshape(-1, 8, 8, 1).astype(np.float32), labels.astype(np.int32))
    splitter = StratifiedShuffleSplit(1, train_size=TRAIN_SIZE, test_size=TEST_SIZE, random_state=0)
    train, test = next(splitter.split(scans, labels))
    return {"train": digits.at(train), "test": digits.at(test)}


class Network(nnx.Module):
    """Two convolutions, two dense layers, and dropout before each dense one."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(1, 32, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(32, 64, (3, 3), rngs=rngs)
        self.dense1 = nnx.Linear(4 * 4 * 64, 128, rngs=rngs)
        self.dense2 = nnx.Linear(128, 10, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, images):
        """The logits of the ten digits, [number, 10], for images of shape [number, 8, 8, 1]."""
        x = nnx.relu(self.conv1(images))
        x = nnx.relu(self.conv2(x))
        x = nnx.max_pool(x, (2, 2), (2, 2)).reshape(len(images), -1)
        x = nnx.relu(self.dense1(self.dropout(x)))
        return self.dense2(self.dropout(x))


def loss_and_logits(model: Network, digits: Digits):
    """The mean cross-entropy in nats, and the logits that it comes from."""
    logits = model(digits.images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, digits.labels).mean(), logits


@nnx.jit(donate_argnames=("model", "optimizer"))
def train_step(model: Network, optimizer: nnx.Optimizer, batch: Digits) -> None:
    """One step of Adadelta: the new parameters and accumulators overwrite the old ones."""
    grads, _ = nnx.grad(loss_and_logits, has_aux=True)(model, batch)
    optimizer.update(model, grads)


evaluate = nnx.jit(loss_and_logits)


class Score(NamedTuple):
    """How well a network does on a set of digits."""

    loss: float  # nats
    accuracy: float  # %


def score(model: Network, digits: Digits) -> Score:
    """The score of a network whose dropout is off."""
    loss, logits = evaluate(model, digits)
    return Score(float(loss), 100 * float(np.mean(np.argmax(logits, -1) == digits.labels)))


def train(
    transformation: optax.GradientTransformation,
    sets: dict[str, Digits],
    *,
    epochs: int,
    batch_size: int,
    seed: int,
) -> tuple[Network, dict[str, list[Score]]]:
    """Train a network on the set "train".

    Returns:
        The network, with dropout off, and for each set its scores: untrained, then by the epoch.
    """
    network = Network(nnx.Rngs(seed))
    optimizer = nnx.Optimizer(network, transformation, wrt=nnx.Param)
    with_dropout = nnx.view(network, deterministic=False)  # both views hold the same arrays
    without_dropout = nnx.view(network, deterministic=True)
    scores = {name: [score(without_dropout, digits)] for name, digits in sets.items()}

    shuffler = np.random.default_rng(seed)
    steps = TRAIN_SIZE // batch_size  # what is left over waits for the next epoch's shuffle
    pause = 0.1 if sys.stderr.isatty() else 10.0  # seconds: a log file wants few lines
    layout = "epoch {n_fmt}/{total_fmt} |{bar}| {elapsed}<{remaining}{postfix}"
    wide, high = shutil.get_terminal_size()  # 80 x 24 where unknown: tqdm would show nothing
    with tqdm(total=epochs, bar_format=layout, mininterval=pause, ncols=wide, nrows=high) as bar:
        for epoch in range(1, epochs + 1):
            order = shuffler.permutation(TRAIN_SIZE)[: steps * batch_size]
            for batch in order.reshape(steps, batch_size):
                train_step(with_dropout, optimizer, sets["train"].at(batch))
            for name, digits in sets.items():
                scores[name].append(score(without_dropout, digits))
            loss, accuracy = scores["train"][-1].loss, scores["test"][-1].accuracy
            if not np.isfinite(loss):
                sys.exit(f"training diverged: the loss is {loss} after epoch {epoch}")
            status = f"train loss {loss:.4f}, test accuracy {accuracy:.1f} %"
            bar.set_postfix_str(status, refresh=False)
            bar.update()
    return without_dropout, scores


INK, MISTAKE = "#1f2937", "#dc2626"
COLORS = {"train": "#94a3b8", "test": "#2563eb"}


@mpl.rc_context(
    {
        "axes.edgecolor": "#cbd5e1",
        "axes.grid": True,
        "axes.labelcolor": INK,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "figure.constrained_layout.h_pad": 0.1,
        "figure.constrained_layout.w_pad": 0.1,
        "grid.color": "#e2e8f0",
        "legend.frameon": False,
        "lines.linewidth": 2,
        "text.color": INK,
        "xtick.color": "#475569",
        "ytick.color": "#475569",
    }
)
def draw(scores: dict[str, list[Score]], test_set: Digits, logits, path: Path) -> None:
    """Save the curves, and the test digits that were the hardest for the network."""
    figure = Figure(figsize=(10, 5.9), dpi=160, layout="constrained")
    rows = figure.add_gridspec(2, 1, height_ratios=[3, 1])

    loss_axes, accuracy_axes = figure.add_subfigure(rows[0]).subplots(1, 2)
    _draw_curves(loss_axes, {name: [s.loss for s in scores[name]] for name in scores}, "{:.2g}")
    loss_axes.set(title="Loss", ylabel="cross-entropy (nats)", yscale="log")
    loss_axes.yaxis.set_major_formatter("{x:g}")
    loss_axes.yaxis.set_minor_formatter("")
    loss_axes.set_ylim(bottom=min(0.1, loss_axes.get_ylim()[0]))

    accuracies = {name: [s.accuracy for s in scores[name]] for name in scores}
    _draw_curves(accuracy_axes, accuracies, "{:.1f} %")
    accuracy_axes.set(title="Accuracy", ylabel="accuracy (%)")
    # Untrained, the network guesses: to show that would take up most of the axis.
    lowest = min(min(values[1:]) for values in accuracies.values())
    accuracy_axes.set_ylim(min(10 * (lowest // 10), 90), 100.5)
    accuracy_axes.yaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10]))

    _draw_hardest(figure.add_subfigure(rows[1]), test_set, logits)
    figure.savefig(path)


def _draw_curves(axes: Axes, curves: dict[str, list[float]], label: str) -> None:
    """One quantity over the epochs, each curve ending in its final value."""
    highest = max(curves, key=lambda name: curves[name][-1])
    for name, values in curves.items():
        axes.plot(values, color=COLORS[name], label=name)
        axes.annotate(
            label.format(values[-1]),
            (len(values) - 1, values[-1]),
            xytext=(6, 0),
            textcoords="offset points",
            va="bottom" if name == highest else "top",  # apart, where curves end close
            color=COLORS[name],
            weight="bold",
        )
    axes.set_xlabel("epoch")
    axes.margins(x=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()


def _draw_hardest(figure: SubFigure, test_set: Digits, logits) -> None:
    """The test digits of the highest loss, so that mistakes come first."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, test_set.labels)
    hardest = np.argsort(-np.asarray(losses))[:12]
    answers = np.argmax(logits, -1)
    for axes, i in zip(figure.subplots(1, len(hardest)), hardest, strict=True):
        label, answer = test_set.labels[i], answers[i]
        right = answer == label
        axes.imshow(test_set.images[i, ..., 0], cmap="gray_r", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color=COLORS["train"] if right else MISTAKE)
        text = f"{label}" if right else f"{label} read as {answer}"
        axes.set_xlabel(text, color=INK if right else MISTAKE, fontsize="small")
    title = "The hardest test digits, as the network read them"
    figure.suptitle(title, x=0.012, ha="left", weight="bold")


class OneLineErrorParser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage above it."""

    def error(self, message: str) -> NoReturn:
        """Print the line and leave with status 2."""
        self.exit(2, f"{self.prog}: error: {message} (--help explains every flag)\n")


def whole_number(lowest: int, highest: int) -> Callable[[str], int]:
    """An argparse type: a whole number between the two."""

    def parse(text: str) -> int:
        if not (text.isdecimal() and lowest <= int(text) <= highest):
            raise argparse.ArgumentTypeError(
                f"must be a whole number from {lowest} to {highest}, got {text}"
            )
        return int(text)

    return parse


def flag_parser() -> OneLineErrorParser:
    """The flags and their defaults; `adadelta` itself knows the ranges of its settings."""
    parser = OneLineErrorParser(
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    count, batch = whole_number(1, 1_000_000), whole_number(1, TRAIN_SIZE)
    seed = whole_number(0, 2**31 - 1)
    add("--epochs", type=count, default=40, help="passes over the training digits, at least 1")
    add("--batch-size", type=batch, default=50, help=f"digits in a step, 1 to {TRAIN_SIZE}")
    add("--learning-rate", type=float, default=1.0, help="factor on every update, at least 0")
    add("--rho", type=float, default=0.9, help="decay rate of both running averages, 0 to 1")
    add("--eps", type=float, default=1e-6, help="added to both averages in the roots, at least 0")
    add("--weight-decay", type=float, default=0.0, help="factor of the L2 penalty, at least 0")
    add("--seed", type=seed, default=0, help="of the first weights, the dropout and the shuffling")
    add("--output", type=Path, default=Path("runs/train_digits"), help="folder for the picture")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Check the flags, train, tell how well it went, and draw it."""
    parser = flag_parser()
    flags = parser.parse_args(argv)
    try:
        transformation = adadelta(flags.learning_rate, flags.rho, flags.eps, flags.weight_decay)
    except ValueError as error:
        parser.error(str(error))
    try:
        flags.output.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=flags.output).close()
    except OSError as error:
        parser.error(f"argument --output: cannot write in {flags.output}: {error.strerror}")
    picture = flags.output / "curves.png"

    sets = train_and_test_sets()
    model, scores = train(
        transformation,
        sets,
        epochs=flags.epochs,
        batch_size=flags.batch_size,
        seed=flags.seed,
    )
    _, logits = evaluate(model, sets["test"])
    draw(scores, sets["test"], logits, picture)

    loss, accuracy = scores["test"][-1]
    mistakes = np.sum(np.argmax(logits, -1) != sets["test"].labels)
    print(f"test loss: {loss:.4f} nats")
    print(f"test accuracy: {accuracy:.2f} % ({mistakes} mistakes in {TEST_SIZE} digits)")
    print(f"picture: {picture}")


if __name__ == "__main__":
    main()
