"""How much memory Adadelta takes and moves: its state, XLA's scratch and bytes accessed.

State lasts from step to step. Scratch is what the compiled step allocates for itself at every call,
on top of the parameters, the state and the gradients. Both are in bytes a parameter, as are the
bytes that XLA expects the step to read and write. The later tables give the same for whole training
steps, in MB. The numbers are the compiler's: there is nothing to repeat, and so no --rounds.
"""

import jax

from benchmarks.common import contenders, measuring, reporting
from benchmarks.speed import step_time, train_step

UPDATE = "update"

UPDATE_COLUMNS = {
    "state, B/parameter": reporting.number("state_bytes_per_parameter", ".2f"),
    "scratch, B/parameter": reporting.number("scratch_bytes_per_parameter", ".2f"),
    "accessed, B/parameter": reporting.number("accessed_bytes_per_parameter", ".1f"),
}
TRAIN_STEP_COLUMNS = {
    "state, MB": lambda row: f"{row['state_bytes'] / 1e6:.2f}",
    "scratch, MB": lambda row: f"{row['scratch_bytes'] / 1e6:.2f}",
    "accessed, MB": lambda row: f"{row['accessed_bytes'] / 1e6:.1f}",
}


def footprint(contender: contenders.JaxContender) -> dict[str, float]:
    """The bytes that a step needs and moves."""
    compiled = contender.compiled()
    analysis = compiled.memory_analysis()
    assert analysis is not None
    total = {
        "state_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(contender.state)),
        "scratch_bytes": analysis.temp_size_in_bytes,
        "accessed_bytes": (compiled.cost_analysis() or {})["bytes accessed"],
    }
    return total | {
        f"{key}_per_parameter": value / contender.parameters() for key, value in total.items()
    }


def measure_update(
    names: list[str], shapes: step_time.Shapes, dtype: str, weight_decay: float
) -> list[reporting.Row]:
    """A row for each contender, after the check that they computed the same numbers."""
    params, grads = contenders.random_params_and_grads(shapes, dtype)
    notes = {name: contenders.why_not(name, params, weight_decay) for name in names}
    taking_part = {
        name: contenders.jax_contender(name, params, grads, weight_decay)
        for name in names
        if notes[name] is None
    }
    checked = step_time.check(taking_part, params, grads, weight_decay)
    return [
        {"contender": name, "deviation": checked[name]["deviation"], **footprint(taking_part[name])}
        if name in taking_part
        else {"contender": name, "note": notes[name]}
        for name in names
    ]


def main() -> None:
    """Measure, print, write."""
    works = train_step.works(quick=False)
    names = [*contenders.JAX_NAMES, "sgd"]
    parser = measuring.argument_parser(__doc__, [UPDATE, *works], names, rounds=None)
    args = measuring.parse(parser)
    update_names = [name for name in args.contenders if name in contenders.JAX_NAMES]
    train_names = [name for name in args.contenders if name in train_step.optimizers()]
    rows: list[reporting.Row] = []

    if UPDATE in args.only and update_names:
        shapes = step_time.works(args.quick)["8_large"]
        for dtype, weight_decay in step_time.variants(args.quick):
            table = measure_update(update_names, shapes, dtype, weight_decay)
            title = f"{UPDATE}: {dtype} parameters, weight decay {weight_decay}"
            reporting.print_table(title, table, UPDATE_COLUMNS)
            of_all = {"work": UPDATE, "dtype": dtype, "weight_decay": weight_decay}
            rows += [of_all | row for row in table]

    for work, (model, batch_shape) in train_step.works(args.quick).items():
        if work in args.only and train_names:
            taking_part = train_step.make(train_names, model, batch_shape)
            train_step.check(taking_part)
            table = [{"contender": name, **footprint(c)} for name, c in taking_part.items()]
            reporting.print_table(f"{work}: a training step", table, TRAIN_STEP_COLUMNS)
            rows += [{"work": work, "dtype": "float32", "weight_decay": 0.0} | row for row in table]

    if args.json:
        reporting.write_json(args.json, "memory", args, rows)
    if args.plot:
        reporting.plot_bars(
            args.plot,
            rows,
            panel=lambda row: f"{row['work']}, {row['dtype']}, weight decay {row['weight_decay']}",
            value="scratch_bytes_per_parameter",
            label="bytes of scratch a parameter",
            columns=3,
        )


if __name__ == "__main__":
    main()
