"""The tables of numbers in README.md and docs/*.md, made from the JSON files of benchmarks/results.

A document says where it wants a table by two lines, and this command fills in what is between them:

    <!-- table NAME -->
    <!-- end table -->

A new table is a function from the folder of the JSON files to Markdown, and its line in `TABLES`.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from reporting import Row

ROOT = Path(__file__).parents[1]
BEGIN = re.compile(r"^<!-- table (\S+) -->$", re.MULTILINE)
END = "<!-- end table -->"

OURS = "adadelta_jax"
PEERS = {  # and floors
    "optax": "Optax",
    "optax_flatten": "Optax, flattened",
    "keras": "Keras",
    "torch_for_loop": "torch, for loop",
    "torch_foreach": "torch, foreach",
    "torch_compile": "torch.compile",
    "floor": "one pass",
    "sgd": "SGD",
}
WORKS = {
    "8_large": "8 x (2048, 2048)",
    "1_huge": "1 x 33,554,432",
    "300_mixed": "300 mixed",
    "1000_small": "1,000 x 1,000",
    "gpt2": "148 of GPT-2",
    "mlp_256": "tanh MLP, 4 layers of 256, batch 64",
    "mlp_1024": "4 layers of 1024, batch 32",
    "mlp_2048": "4 layers of 2048, batch 16",
    "cnn": "CNN, batch 32",
    "transformer": "transformer, 4 x 64 tokens",
}
ACCUMULATORS = {
    "float32": "float32",
    "bfloat16": "bfloat16",
    "bfloat16_to_nearest": "bfloat16, to nearest",
    "float16": "float16",
    "float16_to_nearest": "float16, to nearest",
    "int8": "int8",
    "int8_to_nearest": "int8, to nearest",
}
RANDOM_BITS = {
    "hash": "this package's hash",
    "threefry2x32": "`jax.random.bits`, threefry2x32",
    "rbg": "`jax.random.bits`, rbg",
    "unsafe_rbg": "`jax.random.bits`, unsafe_rbg",
    "nearest": "none: to nearest",
}

Work = dict[str, Row]  # the rows of one work, by contender


def read(results: Path, benchmark: str) -> dict[str, Any]:
    """The JSON file that the benchmark wrote."""
    return json.loads((results / f"{benchmark}.json").read_text())


def works(results: Path, benchmark: str, **where: Any) -> dict[str, Work]:
    """The works of a benchmark by name; of its rows those with these values, and with numbers."""
    found: dict[str, Work] = {}
    for row in read(results, benchmark)["results"]:
        if where.items() <= row.items() and "note" not in row:
            found.setdefault(row["work"], {})[row["contender"]] = row
    return found


def markdown(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table."""
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def ratio(work: Work, *names: str) -> str:
    """Our median divided by the best of theirs; empty if none took part."""
    theirs = [work[name]["median_ms"] for name in names if name in work]
    return f"{work[OURS]['median_ms'] / min(theirs):.2f}" if theirs else ""


def label(name: str, work: Work) -> list[str]:
    """The first cells of a work's line: what it is, and how many parameters it has."""
    return [WORKS[name], f"{work[OURS]['parameters'] / 1e6:.1f} M"]


def machine(results: Path) -> str:
    """On what each benchmark ran, and for how many rounds."""
    packages = ("python", "jax", "optax", "torch", "keras")
    header = ["measured by", "rounds", "processor", "cores", "memory, GiB", *packages]
    rows = []
    for benchmark in ("step_time", "train_step", "memory", "compile_time"):
        report = read(results, benchmark)
        of_machine = [str(report["machine"][key]) for key in ("cpu", "cores", "memory_gib")]
        versions = [report["versions"].get(package, "") for package in packages]
        rounds = str(report["settings"].get("rounds", ""))
        rows.append([f"`benchmarks/{benchmark}.py`", rounds, *of_machine, *versions])
    return markdown(header, rows)


def speed(results: Path) -> str:
    """Our time of a float32 step divided by others', in brackets with weight decay."""
    peers = {
        "optax.adadelta": ["optax"],
        "the same in optax.flatten": ["optax_flatten"],
        "torch, the better of its two": ["torch_for_loop", "torch_foreach"],
        "torch.compile": ["torch_compile"],
    }
    plain, decayed = (
        works(results, "step_time", dtype="float32", weight_decay=decay) for decay in (0.0, 0.01)
    )
    rows = []
    for name, work in plain.items():
        cells = [(ratio(work, *group), ratio(decayed[name], *group)) for group in peers.values()]
        rows.append([*label(name, work), *(f"{a} ({b})" if a and b else a for a, b in cells)])
    return markdown(["leaves", "parameters", *(f"/ {title}" for title in peers)], rows)


def times(benchmark: str, heading: str, digits: int, **where: Any) -> Callable[[Path], str]:
    """A table of every contender's median, in brackets ours divided by it."""

    def table(results: Path) -> str:
        found = works(results, benchmark, **where)
        peers = [peer for peer in PEERS if any(peer in work for work in found.values())]
        rows = []
        for name, work in found.items():
            medians = {key: f"{row['median_ms']:.{digits}f}" for key, row in work.items()}
            theirs = [f"{medians[p]} ({ratio(work, p)})" if p in work else "" for p in peers]
            rows.append([*label(name, work), medians[OURS], *theirs])
        header = [heading, "parameters", "ours, ms", *(PEERS[peer] for peer in peers)]
        return markdown(header, rows)

    return table


def memory(results: Path) -> str:
    """Bytes a parameter of the compiled update."""
    kinds = ("state", "scratch", "accessed")
    rows = []
    for row in read(results, "memory")["results"]:
        if row["work"] == "update" and "note" not in row:
            accumulators = row["contender"].removeprefix(OURS).removeprefix("_")
            ours = f'ours, `accumulator_dtype="{accumulators}"`' if accumulators else "ours"
            name = PEERS.get(row["contender"], ours)
            decay = "coupled" if row["weight_decay"] else "none"
            numbers = [f"{row[f'{kind}_bytes_per_parameter']:.1f}" for kind in kinds]
            rows.append([row["dtype"], decay, name, *numbers])
    return markdown(["parameters", "weight decay", "", *kinds], rows)


def compile_time(results: Path) -> str:
    """The time of each stage of compilation, and how much is compiled, against the leaves."""
    rows = []
    for work in works(results, "compile_time").values():
        ours, optax = work[OURS], work["optax"]
        stages = [
            [row[f"{stage}_median_ms"] for stage in ("trace", "lower", "compile")]
            for row in (ours, optax)
        ]
        rows.append(
            [
                f"{ours['leaves']:,}",
                str(ours["compile_rounds"]),
                *(", ".join(f"{median:.0f}" for median in medians) for medians in stages),
                f"{sum(stages[0]) / sum(stages[1]):.2f}",
                f"{ours['equations'] / optax['equations']:.2f}",
                ratio(work, "optax"),
            ]
        )
    header = [f"{name}: trace, lower, compile, ms" for name in ("ours", "Optax")]
    header += [f"{what}, ours / Optax" for what in ("all three", "operations", "a step")]
    return markdown(["leaves", "rounds", *header], rows)


def accumulator_rows(results: Path, **where: Any) -> Work:
    """The rows of the benchmark of accumulators with these values, by contender."""
    rows = read(results, "accumulators")["results"]
    return {row["contender"]: row for row in rows if where.items() <= row.items()}


def accumulator_bytes(results: Path) -> str:
    """Bytes of state a parameter, by dtype."""
    networks = {"paper_network": "the paper's network", "gpt2": "GPT-2"}
    found = [accumulator_rows(results, work="bytes", network=network) for network in networks]
    header = [
        f"{title}, {next(iter(rows.values()))['parameters']:,} parameters"
        for title, rows in zip(networks.values(), found, strict=True)
    ]
    lines = [
        [f"`{name}`", *(f"{rows[name]['state_bytes_per_parameter']:.3f}" for rows in found)]
        for name in found[0]
    ]
    return markdown(["`accumulator_dtype`", *header], lines)


def accumulator_scores(work: str, heading: str, digits: int) -> Callable[[Path], str]:
    """A table of the scores of trained networks: means, and differences from those of float32."""

    def table(results: Path) -> str:
        rows = accumulator_rows(results, work=work)
        lines = []
        for name, row in rows.items():
            difference = ""
            if "difference" in row:
                error = row["difference_standard_error"]
                difference = f"{row['difference']:+.{digits}f} ± {error:.{digits}f}"
            score = f"{row['mean']:.{digits}f} ± {row['standard_error']:.{digits}f}"
            lines.append([ACCUMULATORS[name], score, difference])
        return markdown(["accumulators", heading, "less float32's, by seed"], lines)

    return table


def accumulator_step_time(results: Path) -> str:
    """Time of a step, in brackets divided by that of float32, and XLA's scratch memory."""
    works_of = {
        ("8_large", "float32"): "8 x (2048, 2048), float32",
        ("paper_network", "float32"): "the paper's network, float32",
        ("8_large", "bfloat16"): "8 x (2048, 2048), bfloat16",
    }
    found = [
        accumulator_rows(results, work="step_time", network=network, dtype=dtype)
        for network, dtype in works_of
    ]
    lines = []
    for name in found[0]:
        cells = []
        for rows in found:
            median, scratch = rows[name]["median_ms"], rows[name]["scratch_bytes_per_parameter"]
            times = median / rows["float32"]["median_ms"]
            cells.append(f"{median:.3g} ({times:.2f}), {scratch:.2f} B")
        lines.append([ACCUMULATORS[name], *cells])
    return markdown(["accumulators", *works_of.values()], lines)


def accumulator_randomness(results: Path) -> str:
    """What random bits cost, and how far the mean of many roundings is from what was rounded."""
    lines = [
        [
            RANDOM_BITS[name],
            f"{row['median_ms']:.1f}",
            f"{row['scratch_bytes_per_value']:.0f}",
            f"{row['deviation_in_one_array']:.1f}",
            f"{row['deviation_over_steps']:.1f}",
        ]
        for name, row in accumulator_rows(results, work="randomness").items()
    ]
    header = ["ms", "scratch, bytes a value", "off in one array", "off over steps"]
    return markdown(["random bits from", *header], lines)


def state_bytes(results: Path) -> str:
    """What each device holds and sends in a step, for every model and layout."""
    models = {"gpt2": "GPT-2", "gpt2_xl": "GPT-2 XL", "llama_70b": "Llama 3 70B"}
    dtypes = ("float32", "bfloat16", "int8")
    kinds = {"parameters": "parameter_bytes", "gradients": "gradient_bytes"}
    kinds |= {f"state, {name}": f"state_bytes_{name}" for name in dtypes}
    kinds["sent a step"] = "sent_bytes"
    rows = [
        [
            f"{models[row['work']]}, {row['dtype']}",
            str(row["devices"]),
            row["contender"],
            *(f"{row[key] / 1e9:.3g}" for key in kinds.values()),
        ]
        for row in read(results, "state_bytes")["results"]
    ]
    return markdown(["model", "devices", "layout", *(f"{kind}, GB" for kind in kinds)], rows)


def planning(results: Path) -> str:
    """What it takes to plan a model: the most that any of its layouts takes."""
    models: dict[tuple[int, int], list[Row]] = {}
    for row in read(results, "state_bytes")["results"]:
        models.setdefault((row["parameters"], row["leaves"]), []).append(row)
    rows = []
    for counts, plans in models.items():
        seconds, peak = (
            max(plan[key] for plan in plans) for key in ("planning_s", "planning_peak_bytes")
        )
        rows.append([*(f"{count:,}" for count in counts), f"{seconds:.1f}", f"{peak / 1e6:.1f}"])
    return markdown(["parameters", "leaves", "seconds", "Python's memory, MB"], rows)


TABLES: Mapping[str, Callable[[Path], str]] = {
    "machine": machine,
    "speed": speed,
    **{
        f"step_time_{dtype}{suffix}": times(
            "step_time", "leaves", digits=1, dtype=dtype, weight_decay=weight_decay
        )
        for dtype in ("float32", "bfloat16")
        for suffix, weight_decay in (("", 0.0), ("_decay", 0.01))
    },
    "train_step": times("train_step", "model", digits=2),
    "memory": memory,
    "compile_time": compile_time,
    "accumulator_bytes": accumulator_bytes,
    "accumulator_mnist": accumulator_scores("mnist", "test error, %", digits=3),
    "accumulator_text": accumulator_scores("text", "validation loss, nats", digits=4),
    "accumulator_step_time": accumulator_step_time,
    "accumulator_randomness": accumulator_randomness,
    "state_bytes": state_bytes,
    "planning": planning,
}


def fill(text: str, results: Path) -> tuple[str, list[str]]:
    """A document with its tables filled in, and the names of those that were others before.

    Raises:
        ValueError: If a table is unknown or not closed, or if something else is closed.
    """
    filled, *regions = BEGIN.split(text)
    if END in filled:
        raise ValueError(f"'{END}' before any '<!-- table NAME -->'")
    stale = []
    for name, region in zip(regions[::2], regions[1::2], strict=True):
        old, *after = region.split(END)
        if len(after) != 1:
            raise ValueError(f"table {name} must be closed by one '{END}', got {len(after)}")
        if name not in TABLES:
            raise ValueError(f"table {name} is unknown: there are {', '.join(TABLES)}")
        new = f"\n\n{TABLES[name](results)}\n\n"  # some dialects want empty lines around a table
        if new != old:
            stale.append(name)
        filled += f"<!-- table {name} -->{new}{END}{after[0]}"
    return filled, stale


def update(root: Path, *, write: bool) -> list[str]:
    """The stale tables of a checkout, each after its document; if `write`, they are filled in."""
    found = []
    for document in [root / "README.md", *sorted((root / "docs").glob("*.md"))]:
        where = document.relative_to(root)
        try:
            filled, stale = fill(document.read_text(), root / "benchmarks" / "results")
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        found += [f"{where}: table {name}" for name in stale]
        if write and stale:
            document.write_text(filled)
    return found


def main() -> None:
    """Fill in the tables, or say which are stale."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if a table is stale"
    )
    check = parser.parse_args().check
    try:
        stale = update(ROOT, write=not check)
    except ValueError as error:
        sys.exit(str(error))
    for where in stale:
        print(where, "is stale: run benchmarks/tables.py" if check else "written")
    sys.exit(1 if check and stale else 0)


if __name__ == "__main__":
    main()
