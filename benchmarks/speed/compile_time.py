"""How long it takes to compile one step of the optimizer, against the number of its leaves.

JAX traces the step into a jaxpr, lowers that to StableHLO and compiles it for the device. Caches
are emptied before each compilation, so that each is that of a new process. The time of a compiled
step stands beside them. With many leaves compilation is slow, and gets fewer rounds: 3000 / leaves,
but at least 3, and at most --rounds.
"""

import gc
import time
from pathlib import Path
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr
from matplotlib.figure import Figure

from benchmarks.common import contenders, measuring, reporting
from benchmarks.speed import step_time

LEAF = (1000,)
STAGES = ("trace", "lower", "compile")

COLUMNS = {f"{name}, ms": reporting.milliseconds(name) for name in STAGES}
COLUMNS |= {
    "jaxpr equations": reporting.number("equations", ","),
    "a step, ms": reporting.milliseconds(),
}


def works(quick: bool) -> dict[str, int]:
    """By name, the number of leaves."""
    counts = (1, 2, 3, 4, 5) if quick else (1, 10, 100, 1000, 3000)
    names = (1, 10, 100, 1000, 3000)
    return {str(name): count for name, count in zip(names, counts, strict=True)}


def stages(contender: contenders.JaxContender) -> tuple[dict[str, float], int]:
    """The seconds that each stage takes from empty caches, and the number of equations."""
    jax.clear_caches()
    times = [time.perf_counter()]
    traced = contender.jitted.trace(contender.params, contender.state, *contender.inputs)
    times.append(time.perf_counter())
    lowered = traced.lower()
    times.append(time.perf_counter())
    lowered.compile()
    times.append(time.perf_counter())
    seconds = {name: times[i + 1] - times[i] for i, name in enumerate(STAGES)}
    return seconds, equations(traced.jaxpr.jaxpr)


def equations(jaxpr: Any) -> int:
    """The equations of a jaxpr, those of functions and branches in it counted at every use.

    Of branches for platforms, those for this one alone, as XLA gets no others.
    """
    count = 0
    for equation in jaxpr.eqns:
        params = equation.params
        if params.get("branches_platforms") is not None:
            branches = zip(params["branches_platforms"], params["branches"], strict=True)
            params = next(
                branch
                for names, branch in branches
                if names is None or jax.default_backend() in names
            )
        inner = [value for value in jax.tree.leaves(params) if isinstance(value, ClosedJaxpr)]
        count += sum(equations(closed.jaxpr) for closed in inner) if inner else 1
    return count


def measure(names: list[str], leaves: int, rounds: int) -> list[reporting.Row]:
    """A row for each contender, after the check that they computed the same numbers."""
    params, grads = contenders.random_params_and_grads([LEAF] * leaves, "float32")
    taking_part = {name: contenders.jax_contender(name, params, grads, 0.0) for name in names}
    deviations = step_time.check(taking_part, params, grads, 0.0)
    step_seconds = measuring.time_in_turn(taking_part, rounds)

    compile_rounds = min(rounds, max(3, 3000 // leaves))
    stage_seconds = {name: {stage: [] for stage in STAGES} for name in names}
    counts = {}
    for _ in range(compile_rounds):
        for name, contender in taking_part.items():
            seconds, counts[name] = stages(contender)
            for stage in STAGES:
                stage_seconds[name][stage].append(seconds[stage])

    rows: list[reporting.Row] = []
    for name in names:
        row: reporting.Row = {"contender": name, "leaves": leaves, "compile_rounds": compile_rounds}
        for stage in STAGES:
            row |= measuring.median_and_quartiles(stage_seconds[name][stage], stage)
        row |= {"equations": counts[name], "deviation": deviations[name]["deviation"]}
        rows.append(row | measuring.median_and_quartiles(step_seconds[name]))
    return rows


def plot(path: Path, rows: list[reporting.Row]) -> None:
    """Draw the time of tracing, lowering and compiling, and of a step, against the leaves."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    whole, step = figure.subplots(1, 2)
    for name in dict.fromkeys(row["contender"] for row in rows):
        own = [row for row in rows if row["contender"] == name]
        leaves = [row["leaves"] for row in own]
        seconds = [sum(row[f"{stage}_median_ms"] for stage in STAGES) / 1e3 for row in own]
        whole.loglog(leaves, seconds, "o-", label=name)
        step.loglog(leaves, [row["median_ms"] for row in own], "o-", label=name)
    whole.set(xlabel="leaves", ylabel="s", title="Tracing, lowering and compiling a step")
    step.set(xlabel="leaves", ylabel="ms", title="A compiled step")
    whole.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure, print, write."""
    parser = measuring.argument_parser(__doc__, works(quick=False), contenders.JAX_NAMES)
    parser.set_defaults(contenders=["adadelta_jax", "optax"])
    args = measuring.parse(parser)
    jax.config.update("jax_enable_compilation_cache", False)
    rows: list[reporting.Row] = []
    for work in args.only:
        leaves = works(args.quick)[work]
        table = measure(args.contenders, leaves, args.rounds)
        rounds = table[0]["compile_rounds"]
        title = f"{leaves} leaves of {LEAF}: median (quartiles) of {rounds} compilations"
        reporting.print_table(title, table, COLUMNS)
        rows += [{"work": work} | row for row in table]
        gc.collect()
    if args.json:
        reporting.write_json(args.json, "compile_time", args, rows)
    if args.plot:
        plot(args.plot, rows)


if __name__ == "__main__":
    main()
