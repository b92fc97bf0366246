"""What narrower accumulators save and cost: bytes, time, and how well networks learn.

v and u are stored in float32, bfloat16, float16 and uint8. The narrow ones are rounded at random,
as the package does, and to nearest; those of 8 bits also with bits of their own for v and u.

Parts:
  bytes       of state, for the paper's network and for GPT-2
  step_time   update and apply; also XLA's scratch memory and bytes accessed
  randomness  what random bits cost and whether they are good: one array of float32, stored in
              bfloat16 with bits from the package's hash, from JAX's generators and from none
  mnist       test error of the paper's network, 6 epochs, 10 seeds
  text        validation loss of a character-level transformer on the help texts of Python, 3 seeds
  mnist_settings  test error with float32 and uint8 for other ρ and ε
  mnist_scales    test error with float32 and uint8 where gradients are scaled
  mnist_apart     test error with ρ = 0.99, with bits of their own for v and u
  text_scales     validation loss with float32 and uint8 where gradients are scaled

Every trained network's score is kept in a file at once, so that an interrupted run goes on where it
stopped. Whatever decides it is part of the file's name, versions of packages included.
"""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from benchmarks.accumulators.randomness import measure_randomness
from benchmarks.accumulators.training import (
    APART,
    RHOS_AND_EPS,
    SCALES,
    measure_mnist,
    measure_text,
)
from benchmarks.accumulators.variants import (
    DTYPES,
    EPS,
    PAPERS,
    RHO,
    TO_NEAREST,
    VARIANTS,
    optimizer,
)
from benchmarks.common import agreement, contenders, measuring, reporting
from benchmarks.memory import step
from benchmarks.paper import network as paper_network
from benchmarks.speed import step_time

PARTS = (
    *("bytes", "step_time", "randomness", "mnist", "text"),
    *("mnist_settings", "mnist_scales", "mnist_apart", "text_scales"),
)

CHECKED_STEPS = 3
# Of the parameters after them, in units of the change that they made; see `agreement`. A number of
# 8 bits is off by up to a quarter, and a step goes with its root.
TOLERANCE = {"float32": 1e-5, "bfloat16": 0.05, "float16": 0.1, "uint8": 0.4}

PANELS_IN_A_LINE = 3
RUNS = paper_network.ROOT / "runs" / "accumulators"

BYTES_COLUMNS = {
    "state, MB": lambda row: f"{row['state_bytes'] / 1e6:.2f}",
    "B/parameter": reporting.number("state_bytes_per_parameter", ".4f"),
}
STEP_TIME_COLUMNS = {
    "ms: median (quartiles)": reporting.milliseconds(),
    "deviation": reporting.number("deviation", ".1e"),
    **step.UPDATE_COLUMNS,
}


def paper_shapes() -> step_time.Shapes:
    """The parameters of the paper's network."""
    params = jax.eval_shape(paper_network.initial_params, jax.random.key(0))
    return [leaf.shape for leaf in jax.tree.leaves(params)]


def measure_bytes(variants: list[str], quick: bool) -> list[reporting.Row]:
    """A row for each network and dtype: the state's bytes, of which nothing is allocated."""
    rows: list[reporting.Row] = []
    for network, shapes in {
        "paper_network": paper_shapes(),
        "gpt2": step_time.works(quick)["gpt2"],
    }.items():
        params = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        parameters = sum(math.prod(shape) for shape in shapes)
        table: list[reporting.Row] = []
        for variant in variants:
            if variant in DTYPES:  # how they are rounded makes no difference
                state = jax.eval_shape(optimizer(variant).init, params)
                size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
                per_parameter = size / parameters
                table.append(
                    {
                        "contender": variant,
                        "state_bytes": size,
                        "state_bytes_per_parameter": per_parameter,
                    }
                )
        title = f"bytes of state: {network}, {parameters:,} parameters"
        reporting.print_table(title, table, BYTES_COLUMNS)
        rows += [{"network": network, "parameters": parameters} | row for row in table]
    return rows


def measure_step_time(variants: list[str], quick: bool, rounds: int) -> list[reporting.Row]:
    """A row for each set of parameters and variant, after the check that all are Adadelta."""
    large = step_time.works(quick)["8_large"]
    rows: list[reporting.Row] = []
    for network, shapes, dtype in (
        ("8_large", large, "float32"),
        ("8_large", large, "bfloat16"),
        ("paper_network", paper_shapes(), "float32"),
    ):
        params, grads = contenders.random_params_and_grads(shapes, dtype)
        taking_part = {
            variant: contenders.JaxContender(
                contenders.update_step(optimizer(variant)),
                params,
                optimizer(variant).init(params),
                grads,
            )
            for variant in variants
        }
        deviations = check(taking_part, params, grads)
        seconds = measuring.time_in_turn(taking_part, rounds)
        table = [
            {
                "contender": variant,
                **measuring.median_and_quartiles(seconds[variant]),
                "deviation": deviations[variant],
                **step.footprint(contender),
            }
            for variant, contender in taking_part.items()
        ]
        parameters = sum(param.size for param in params)
        title = f"step time: {network}, {parameters:,} {dtype} parameters"
        reporting.print_table(title, table, STEP_TIME_COLUMNS)
        of_all = {"network": network, "parameters": parameters, "dtype": dtype}
        rows += [of_all | row for row in table]
    return rows


def check(
    taking_part: dict[str, contenders.JaxContender],
    params: list[jax.Array],
    grads: list[jax.Array],
) -> dict[str, float]:
    """Let new contenders take a few steps; how far each is from exact arithmetic."""
    for contender in taking_part.values():
        for _ in range(CHECKED_STEPS):
            contender()
    start = jax.device_get(params)
    exact = [
        agreement.adadelta_steps(
            param, grad, steps=CHECKED_STEPS, weight_decay=0.0, rho=RHO, eps=EPS
        )
        for param, grad in zip(start, jax.device_get(grads), strict=True)
    ]
    # bfloat16 rounds a parameter to a part of its change at every step, as step_time has it.
    least = 0.0 if start[0].dtype == np.float32 else step_time.TOLERANCE["bfloat16"]
    tolerances = {
        variant: least + TOLERANCE[variant.removesuffix(TO_NEAREST)] for variant in taking_part
    }
    leaves = {variant: contender.leaves() for variant, contender in taking_part.items()}
    return agreement.check(leaves, exact, start, tolerances)


def draw(path: Path, rows: list[reporting.Row]) -> None:
    """Scores with their standard errors, and beside them bytes and milliseconds."""
    panels = (
        ("mnist", "MNIST, the paper's network", "test error, %", "mean"),
        ("text", "text, a transformer", "validation loss, nats a character", "mean"),
        ("bytes", "state of GPT-2", "bytes a parameter", "state_bytes_per_parameter"),
        ("step_time", "a step on 8 x (2048, 2048)", "ms", "median_ms"),
        ("randomness", "storing in bfloat16", "ms", "median_ms"),
    )
    panels = [panel for panel in panels if any(row["work"] == panel[0] for row in rows)]
    lines = -(-len(panels) // PANELS_IN_A_LINE)
    figure = Figure(figsize=(5 * PANELS_IN_A_LINE, 3 * lines), layout="constrained")
    axes = list(figure.subplots(lines, PANELS_IN_A_LINE, squeeze=False).flat)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    for axis, (work, title, label, value) in zip(axes, panels, strict=False):
        shown = [
            row
            for row in rows
            if row["work"] == work
            and row.get("network") in (None, "gpt2", "8_large")
            and row.get("dtype") in (None, "float32")
        ]
        names = [row["contender"] for row in shown]
        numbers = [row[value] for row in shown]
        if value == "mean":
            spread = [row["standard_error"] for row in shown]
            axis.errorbar(numbers, names, xerr=spread, fmt="o", capsize=3)
        else:
            axis.bar_label(axis.barh(names, numbers), fmt="%.3g", padding=2)
            axis.margins(x=0.15)
        axis.invert_yaxis()
        axis.set(title=title, xlabel=label)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure, print, write."""
    parser = measuring.argument_parser(__doc__, PARTS, VARIANTS)
    parser.add_argument(
        "--parts", dest="only", nargs="+", choices=PARTS, metavar="PART", help="the same as --only"
    )
    measuring.add_folders(parser, RUNS)
    args = measuring.parse(parser)
    variants, quick, rounds = args.contenders, args.quick, args.rounds
    pair = ("float32", "uint8")
    measure = {
        "bytes": lambda: measure_bytes(variants, quick),
        "step_time": lambda: measure_step_time(variants, quick, rounds),
        "randomness": lambda: measure_randomness(quick, rounds),
        "mnist": lambda: measure_mnist(variants, [PAPERS], quick, args.data_dir, args.runs),
        "text": lambda: measure_text(variants, [PAPERS], quick, args.runs),
        "mnist_settings": lambda: measure_mnist(
            pair, RHOS_AND_EPS, quick, args.data_dir, args.runs
        ),
        "mnist_scales": lambda: measure_mnist(pair, SCALES, quick, args.data_dir, args.runs),
        "mnist_apart": lambda: measure_mnist(
            (*pair, "uint8_apart"), [APART], quick, args.data_dir, args.runs
        ),
        "text_scales": lambda: measure_text(pair, SCALES, quick, args.runs),
    }
    rows = [{"work": part} | row for part in args.only for row in measure[part]()]
    if args.json:
        reporting.write_json(args.json, "accumulators", args, rows)
    if args.plot:
        draw(args.plot, rows)


if __name__ == "__main__":
    main()
