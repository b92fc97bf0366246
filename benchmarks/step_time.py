"""How long one step of the optimizer takes: the update, added to the parameters.

Works differ in how many parameters they have, and in how many leaves. Each is measured with float32
and bfloat16 parameters, without and with (coupled) weight decay. The floor is the time of one pass
that moves as many bytes as any Adadelta must: it reads the parameters, the gradients and both
accumulators and writes all but the gradients, seven numbers a parameter.

All contenders of a work are in memory together: gpt2 takes 14 GiB with all of them, less with
--contenders.
"""

import argparse
import gc
import itertools
import math
import time

import agreement
import contenders
import jax
import jax.numpy as jnp
import measuring
import reporting

CHECKED_STEPS = 3
# The tolerance is in units of the change that the checked steps made; see `agreement`.
TOLERANCE = {"float32": 1e-5, "bfloat16": 0.1}
WEIGHT_DECAYS = (0.0, 0.01)

Shapes = list[tuple[int, ...]]

COLUMNS = {
    "ms: median (quartiles)": reporting.milliseconds(),
    "x floor": lambda row: f"{row['times_floor']:.2f}" if "times_floor" in row else "1",
    "first call, s": lambda row: f"{row['first_call_s']:.2f}" if "first_call_s" in row else "",
    "deviation": lambda row: f"{row['deviation']:.1e}" if "deviation" in row else "",
}


def works(quick: bool) -> dict[str, Shapes]:
    """By name, the shapes of the parameters."""
    if quick:
        return {
            "8_large": [(64, 64)] * 8,
            "1_huge": [(1 << 15,)],
            "300_mixed": [(64,), (3, 3, 8, 8), (16, 16)] * 2,
            "1000_small": [(100,)] * 20,
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


def measure(
    names: list[str], shapes: Shapes, dtype: str, weight_decay: float, rounds: int, slow: bool
) -> list[reporting.Row]:
    """A row for each contender, after the check that they computed the same numbers."""
    params, grads = contenders.random_params_and_grads(shapes, dtype)
    notes = {name: contenders.why_not(name, params, weight_decay, slow) for name in names}
    taking_part = {
        name: contenders.make(name, params, grads, weight_decay)
        for name in names
        if notes[name] is None
    }
    first_call = {}
    for _ in range(CHECKED_STEPS):
        for name, contender in taking_part.items():
            start = time.perf_counter()
            contender()
            first_call.setdefault(name, time.perf_counter() - start)
    deviations = check(taking_part, params, grads, weight_decay)
    size = sum(param.size for param in params)
    floor = contenders.in_place_pass(7 * size * params[0].dtype.itemsize)
    del params
    floor()
    seconds = measuring.time_in_turn({**taking_part, "floor": floor}, rounds)

    rows: list[reporting.Row] = []
    floor_row = {"contender": "floor", **measuring.median_and_quartiles(seconds["floor"])}
    for name in names:
        row: reporting.Row = {"contender": name}
        if notes[name] is None:
            row |= measuring.median_and_quartiles(seconds[name])
            row["times_floor"] = row["median_ms"] / floor_row["median_ms"]
            row["first_call_s"] = first_call[name]
            row["deviation"] = deviations[name]
        else:
            row["note"] = notes[name]
        rows.append(row)
    return [*rows, floor_row]


def check(
    taking_part: dict[str, contenders.Contender],
    params: list[jax.Array],
    grads: list[jax.Array],
    weight_decay: float,
) -> dict[str, float]:
    """The deviation of every contender from exact arithmetic, after the checked steps."""
    start, grad_leaves = (list(map(jax.device_get, arrays)) for arrays in (params, grads))
    exact = [
        agreement.adadelta_steps(
            param,
            grad,
            steps=CHECKED_STEPS,
            weight_decay=weight_decay,
            rho=contenders.RHO,
            eps=contenders.EPS,
        )
        for param, grad in zip(start, grad_leaves, strict=True)
    ]
    found = {name: contender.leaves() for name, contender in taking_part.items()}
    return agreement.check(found, exact, start, TOLERANCE[params[0].dtype.name])


def main() -> None:
    """Measure, print, write."""
    parser = measuring.argument_parser(__doc__, works(quick=False), contenders.NAMES)
    parser.add_argument(
        "--slow",
        action="store_true",
        help="let torch.compile take part where it compiles for minutes (many leaves)",
    )
    args = measuring.parse(parser)
    shapes_of = works(args.quick)
    rows: list[reporting.Row] = []
    for work, dtype, weight_decay in itertools.product(args.only, TOLERANCE, WEIGHT_DECAYS):
        shapes = shapes_of[work]
        table = measure(args.contenders, shapes, dtype, weight_decay, args.rounds, args.slow)
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
        gc.collect()
        jax.clear_caches()
    if args.json:
        reporting.write_json(args.json, "step_time", args, rows)
    if args.plot:
        reporting.plot_bars(
            args.plot,
            rows,
            panel=lambda row: f"{row['work']}, {row['dtype']}, weight decay {row['weight_decay']}",
            value="median_ms",
            label="ms a step",
            columns=4,
        )


if __name__ == "__main__":
    main()
