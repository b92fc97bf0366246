"""How long one step of the optimizer takes: the update, added to the parameters.

Works differ in how many parameters they have, and in how many leaves. Each is measured with float32
and bfloat16 parameters, without and with (coupled) weight decay.

Every Adadelta reads the parameters, the gradients and both accumulators and writes all but the
gradients: seven numbers a parameter. The floor is the time in which JAX moves as many bytes in one
pass that adds an array to another in place. Where the arrays fit in the caches it says little.

All contenders of a work are in memory together: gpt2 takes 15 GiB with all of them, less with
--contenders.
"""

import gc
import itertools
import math
import time
from collections.abc import Mapping

import jax

from benchmarks.common import agreement, contenders, measuring, reporting

CHECKED_STEPS = 3
# Of the parameters after them, in units of the change that they made; see `agreement`. bfloat16
# rounds a parameter to about 3 % of that change at every step.
TOLERANCE = {"float32": 1e-5, "bfloat16": 0.1}
TORCH_COMPILE_LEAVES = 16  # with more, compiling takes minutes

Shapes = list[tuple[int, ...]]


COLUMNS = {
    "ms: median (quartiles)": reporting.milliseconds(),
    "x floor": reporting.number("times_floor", ".2f"),
    f"first {CHECKED_STEPS} steps, s": reporting.number("first_steps_s", ".2f"),
    "deviation": reporting.number("deviation", ".1e"),
}


def works(quick: bool) -> dict[str, Shapes]:
    """By name, the shapes of the parameters."""
    if quick:
        return {
            "8_large": [(64, 64)] * 3,
            "1_huge": [(1 << 15,)],
            "300_mixed": [(64,), (3, 3, 8, 8), (16, 16)],
            "1000_small": [(100,)] * 5,
            "gpt2": gpt2_shapes(width=16, depth=1, vocabulary=101, context=16),
        }
    return {
        "8_large": [(2048, 2048)] * 8,
        "1_huge": [(1 << 25,)],
        "300_mixed": [(64,), (3, 3, 64, 64), (256, 256)] * 100,
        "1000_small": [(1000,)] * 1000,
        "gpt2": gpt2_shapes(width=768, depth=12, vocabulary=50257, context=1024),
    }


def gpt2_shapes(*, width: int, depth: int, vocabulary: int, context: int) -> Shapes:
    """The parameters of GPT-2: embeddings, blocks of attention and MLP, normalisations."""
    norm = [(width,), (width,)]
    attention = [(width, 3 * width), (3 * width,), (width, width), (width,)]
    mlp = [(width, 4 * width), (4 * width,), (4 * width, width), (width,)]
    blocks = depth * [*norm, *attention, *norm, *mlp]
    return [(vocabulary, width), (context, width), *blocks, *norm]


def variants(quick: bool) -> list[tuple[str, float]]:
    """The dtypes of the parameters and the weight decays with which every work is measured."""
    combinations = list(itertools.product(TOLERANCE, (0.0, 0.01)))
    return [combinations[0], combinations[-1]] if quick else combinations


def measure(
    names: list[str],
    shapes: Shapes,
    dtype: str,
    weight_decay: float,
    rounds: int,
    torch_compile_leaves: float,
) -> list[reporting.Row]:
    """A row for each contender, after the check that they computed the same numbers."""
    params, grads = contenders.random_params_and_grads(shapes, dtype)
    notes = {
        name: contenders.why_not(name, params, weight_decay, torch_compile_leaves) for name in names
    }
    taking_part: dict[str, contenders.Contender] = {}
    for name in names:
        if notes[name] is None:
            of_torch = name in contenders.TORCH_NAMES
            make = contenders.torch_contender if of_torch else contenders.jax_contender
            taking_part[name] = make(name, params, grads, weight_decay)
    checked = check(taking_part, params, grads, weight_decay)
    size = sum(param.size for param in params)
    floor = contenders.in_place_pass(7 * size * params[0].dtype.itemsize)
    del params
    floor()
    seconds = measuring.time_in_turn({**taking_part, "floor": floor}, rounds)

    floor_row: reporting.Row = {"contender": "floor", "times_floor": 1.0}
    floor_row |= measuring.median_and_quartiles(seconds["floor"])
    rows: list[reporting.Row] = []
    for name in names:
        row: reporting.Row = {"contender": name}
        if notes[name] is None:
            row |= measuring.median_and_quartiles(seconds[name])
            row["times_floor"] = row["median_ms"] / floor_row["median_ms"]
            row |= checked[name]
        else:
            row["note"] = notes[name]
        rows.append(row)
    return [*rows, floor_row]


def check(
    taking_part: Mapping[str, contenders.Contender],
    params: list[jax.Array],
    grads: list[jax.Array],
    weight_decay: float,
) -> dict[str, reporting.Row]:
    """Let new contenders take a few steps, and compare them with exact arithmetic.

    Returns:
        By contender, the row entries `first_steps_s`, compilation included, and `deviation`.
    """
    seconds = {}
    for name, contender in taking_part.items():
        began = time.perf_counter()
        for _ in range(CHECKED_STEPS):
            contender()
        seconds[name] = time.perf_counter() - began
    settings: dict[str, float] = {"weight_decay": weight_decay}
    settings |= {"rho": contenders.RHO, "eps": contenders.EPS}
    start = jax.device_get(params)
    exact = [
        agreement.adadelta_steps(param, grad, steps=CHECKED_STEPS, **settings)
        for param, grad in zip(start, jax.device_get(grads), strict=True)
    ]
    deviations = agreement.check(
        {name: contender.leaves() for name, contender in taking_part.items()},
        exact,
        start,
        {
            name: TOLERANCE["bfloat16" if "bfloat16" in name else params[0].dtype.name]
            for name in taking_part
        },
    )
    return {
        name: {"first_steps_s": seconds[name], "deviation": deviations[name]}
        for name in taking_part
    }


def main() -> None:
    """Measure, print, write."""
    parser = measuring.argument_parser(
        __doc__, works(quick=False), (*contenders.JAX_NAMES, *contenders.TORCH_NAMES)
    )
    parser.add_argument(
        "--slow",
        action="store_true",
        help="let torch.compile take part in works of many leaves, where it compiles for minutes",
    )
    args = measuring.parse(parser)
    torch_compile_leaves = math.inf if args.slow else 0 if args.quick else TORCH_COMPILE_LEAVES
    shapes_of = works(args.quick)
    rows: list[reporting.Row] = []
    for work, (dtype, weight_decay) in itertools.product(args.only, variants(args.quick)):
        shapes = shapes_of[work]
        table = measure(
            args.contenders, shapes, dtype, weight_decay, args.rounds, torch_compile_leaves
        )
        parameters = sum(math.prod(shape) for shape in shapes)
        reporting.print_table(
            f"{work}: {parameters:,} {dtype} parameters in {len(shapes)} leaves, "
            f"weight decay {weight_decay}",
            table,
            COLUMNS,
        )
        of_all = {"work": work, "dtype": dtype, "weight_decay": weight_decay}
        of_all |= {"parameters": parameters, "leaves": len(shapes)}
        rows += [of_all | row for row in table]
        gc.collect()  # before the next table's arrays
    if args.json:
        reporting.write_json(args.json, "step_time", args, rows)
    if args.plot:
        reporting.plot_bars(
            args.plot,
            rows,
            panel=lambda row: f"{row['work']}, {row['dtype']}, weight decay {row['weight_decay']}",
            value="median_ms",
            label="ms a step",
            columns=len(variants(args.quick)),
        )


if __name__ == "__main__":
    main()
