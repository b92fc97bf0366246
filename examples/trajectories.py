"""Draw the paths of Adadelta and of five of Optax's optimizers over three functions of two numbers.

The others have the learning rate that ends lowest, of those in `RATES`, chosen anew for every
function. Adadelta has nothing chosen: it runs at its defaults, and once more with a larger epsilon,
which is what its first steps are made of.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import optax
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from train_digits import OneLineErrorParser, whole_number

from adadelta_jax import adadelta

RATES = tuple(float(f"{10**exponent:.1g}") for exponent in np.arange(-4, 0.1, 0.5))


class Landscape(NamedTuple):
    """A function to descend."""

    value: Callable[[jax.Array], jax.Array]  # of a point [x, y]
    start: tuple[float, float]
    minima: tuple[tuple[float, float], ...]
    x_range: tuple[float, float]  # what the picture shows
    y_range: tuple[float, float]


def beale(point: jax.Array) -> jax.Array:
    """Beale's function: steep walls around a long flat valley."""
    x, y = point
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def rosenbrock(point: jax.Array) -> jax.Array:
    """Rosenbrock's function: a narrow, curved valley."""
    x, y = point
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def saddle(point: jax.Array) -> jax.Array:
    """A saddle at the origin, between two minima of -1/2."""
    x, y = point
    return x**2 - y**2 + y**4 / 2


LANDSCAPES = {
    "Beale": Landscape(beale, (1.0, 1.5), ((3.0, 0.5),), (-0.5, 4.5), (-1.5, 2.2)),
    "Rosenbrock": Landscape(rosenbrock, (-1.2, 1.0), ((1.0, 1.0),), (-1.8, 1.8), (-0.8, 2.6)),
    "Saddle": Landscape(saddle, (1.2, 1e-3), ((0.0, 1.0), (0.0, -1.0)), (-1.5, 1.5), (-1.4, 1.6)),
}
OF_OPTAX: dict[str, Callable[[Any], optax.GradientTransformation]] = {
    "SGD": optax.sgd,
    "momentum 0.9": lambda rate: optax.sgd(rate, momentum=0.9),
    "Adagrad": optax.adagrad,
    "RMSProp": optax.rmsprop,
    "Adam": optax.adam,
}
OURS = {"Adadelta": adadelta(), "Adadelta, eps 1e-4": adadelta(eps=1e-4)}


class Run(NamedTuple):
    """One optimizer's way down."""

    learning_rate: float
    path: np.ndarray  # float32 [steps + 1, 2], from the start on
    values: np.ndarray  # float32 [steps + 1], of the function along the path


def descend(optimizer: optax.GradientTransformation, landscape: Landscape, steps: int):
    """The points that an optimizer visits, and the function there."""

    def step(carry, _):
        point, state = carry
        value, grads = jax.value_and_grad(landscape.value)(point)
        updates, state = optimizer.update(grads, state, point)
        return (optax.apply_updates(point, updates), state), (point, value)

    start = jnp.array(landscape.start)
    return jax.lax.scan(step, (start, optimizer.init(start)), length=steps + 1)[1]


def best_run(make: Callable, landscape: Landscape, steps: int) -> Run:
    """The run that ends lowest, over `RATES`, of those that do not leave the picture."""
    descents = jax.vmap(lambda rate: descend(make(rate), landscape, steps))
    paths, values = map(np.asarray, jax.jit(descents)(jnp.array(RATES)))
    low, high = np.transpose([landscape.x_range, landscape.y_range])
    stays = np.all((low <= paths) & (paths <= high), axis=(1, 2))
    best = np.argmin(np.where(stays, values[:, -1], np.inf))
    return Run(RATES[best], paths[best], values[best])


def all_runs(steps: int) -> dict[str, dict[str, Run]]:
    """The run of each optimizer, by the function."""
    runs = {}
    for name, landscape in LANDSCAPES.items():
        runs[name] = {label: best_run(make, landscape, steps) for label, make in OF_OPTAX.items()}
        for label, optimizer in OURS.items():
            path, values = jax.jit(lambda o=optimizer, f=landscape: descend(o, f, steps))()
            runs[name][label] = Run(1.0, np.asarray(path), np.asarray(values))
    return runs


INK = "#1f2937"
# Okabe and Ito's colours, which colour-blind readers can tell apart; the markers differ too.
STYLES = {
    "SGD": ("#56b4e9", "-", "o"),
    "momentum 0.9": ("#e69f00", "-", "s"),
    "Adagrad": ("#009e73", "-", "^"),
    "RMSProp": ("#cc79a7", "-", "v"),
    "Adam": ("#0072b2", "-", "D"),
    "Adadelta": ("#d55e00", "-", "P"),
    "Adadelta, eps 1e-4": ("#000000", "--", "X"),
}


def draw_landscape(axes: Axes, name: str, landscape: Landscape) -> None:
    """Contours, evenly spaced in the logarithm of the height above the minimum."""
    x, y = np.meshgrid(np.linspace(*landscape.x_range, 200), np.linspace(*landscape.y_range, 200))
    heights = np.asarray(landscape.value(jnp.stack([x, y])))
    heights = np.log10(heights - landscape.value(jnp.array(landscape.minima[0])) + 1e-2)
    axes.contour(x, y, heights, levels=16, cmap="gray", vmax=6, linewidths=0.6, alpha=0.5)
    for minimum in landscape.minima:
        axes.plot(*minimum, "*", color=INK, markersize=11, clip_on=True)
    axes.plot(*landscape.start, "o", color="white", markeredgecolor=INK, markersize=7)
    axes.set(title=name, xlim=landscape.x_range, ylim=landscape.y_range)


def draw(runs: dict[str, dict[str, Run]], dpi: int) -> tuple[Figure, list[tuple[Line2D, Run]]]:
    """A panel for each function, with all paths at their full length."""
    figure = Figure(figsize=(12, 5.4), dpi=dpi, layout="constrained")
    lines = []
    for axes, (name, of_function) in zip(figure.subplots(1, 3), runs.items(), strict=True):
        draw_landscape(axes, name, LANDSCAPES[name])
        for label, run in of_function.items():
            color, dashes, marker = STYLES[label]
            (line,) = axes.plot(
                *run.path.T,
                color=color,
                linestyle=dashes,
                marker=marker,
                markevery=[-1],
                markersize=8,
                markeredgecolor="white",
                linewidth=2.4 if label == "Adadelta" else 1.4,
                label=f"{label}, {run.learning_rate:g}",
            )
            lines.append((line, run))
        axes.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, -0.08),
            ncols=2,
            columnspacing=1,
            handlelength=1.5,
            fontsize="small",
            title="optimizer, learning rate",
            title_fontsize="small",
        )
    return figure, lines


@mpl.rc_context(
    {
        "axes.edgecolor": "#cbd5e1",
        "axes.labelcolor": INK,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "figure.constrained_layout.h_pad": 0.1,
        "legend.frameon": False,
        "text.color": INK,
        "xtick.color": "#475569",
        "ytick.color": "#475569",
    }
)
def save_pictures(runs: dict[str, dict[str, Run]], folder: Path, frames: int) -> None:
    """The whole paths as a PNG, and how they come about as a GIF."""
    steps = len(next(iter(runs["Beale"].values())).path) - 1
    figure, _ = draw(runs, dpi=130)
    figure.suptitle(f"{steps} steps from the circle; the stars are minima")
    figure.savefig(folder / "trajectories.png")

    figure, lines = draw(runs, dpi=72)
    title = figure.suptitle(f"step {steps} of {steps}")
    figure.draw_without_rendering()  # once, to lay it out: no panel may move between frames
    figure.set_layout_engine("none")

    def show(step):
        title.set_text(f"step {step} of {steps}")
        for line, run in lines:
            line.set_data(*run.path[: step + 1].T)

    # Most happens early: steps are shown closer together there. The end stays for a while.
    shown = np.unique((steps * np.linspace(0, 1, frames) ** 1.5).astype(int)).tolist()
    shown += [steps] * (frames // 5)
    animation = FuncAnimation(figure, show, shown, init_func=lambda: None)
    animation.save(folder / "trajectories.gif", PillowWriter(fps=8))


def table(runs: dict[str, dict[str, Run]]) -> str:
    """The function's value at the end of every path, and the learning rate."""
    width = max(map(len, STYLES)) + 2
    lines = ["".join([" " * width, *(f"{name:>24}" for name in runs)])]
    for label in STYLES:
        cells = (runs[name][label] for name in runs)
        ends = (f"{run.values[-1]:.3g} (rate {run.learning_rate:g})" for run in cells)
        lines.append("".join([f"{label:{width}}", *(f"{end:>24}" for end in ends)]))
    return "\n".join(lines)


def flag_parser() -> OneLineErrorParser:
    """The flags and their defaults."""
    parser = OneLineErrorParser(
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--steps", type=whole_number(1, 100_000), default=600, help="steps of every path")
    add("--frames", type=whole_number(2, 1000), default=30, help="of the animation, at most")
    add("--output", type=Path, default=Path("runs/trajectories"), help="folder for the pictures")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run all optimizers on all functions, tell where they end, and draw how they got there."""
    parser = flag_parser()
    flags = parser.parse_args(argv)
    try:
        flags.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"argument --output: cannot write in {flags.output}: {error.strerror}")
    runs = all_runs(flags.steps)
    save_pictures(runs, flags.output, flags.frames)
    minima = (f"{f.value(jnp.array(f.minima[0])):g} of {name}" for name, f in LANDSCAPES.items())
    print(f"value after {flags.steps} steps; the minima are {', '.join(minima)}")
    print(table(runs))
    print(f"pictures: {flags.output / 'trajectories.png'}, {flags.output / 'trajectories.gif'}")


if __name__ == "__main__":
    main()
