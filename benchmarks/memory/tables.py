"""The tables of memory: what a step takes and moves, and what each device holds and sends."""

from collections.abc import Callable
from pathlib import Path

from benchmarks.common.reporting import Row, markdown, read
from benchmarks.speed.tables import OURS, PEERS


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


def wrappers(results: Path) -> str:
    """Bytes per parameter of a step whose optimizer Optax wraps, ours and Optax's."""
    works: dict[str, dict[str, Row]] = {}
    for row in read(results, "wrappers")["results"]:
        works.setdefault(row["work"], {})[row["contender"]] = row
    rows = [
        [
            name,
            *(
                f"{work[c][f'{kind}_bytes_per_parameter']:.0f}"
                for c in (OURS, "optax")
                for kind in ("scratch", "accessed")
            ),
        ]
        for name, work in works.items()
    ]
    header = [f"{kind}, {whose}" for whose in ("ours", "Optax") for kind in ("scratch", "accessed")]
    return markdown(["optimizer", *header], rows)


def state_bytes(results: Path) -> str:
    """What each device holds and sends in a step, for every model and layout."""
    models = {"gpt2": "GPT-2", "gpt2_xl": "GPT-2 XL", "llama_70b": "Llama 3 70B"}
    dtypes = ("float32", "bfloat16", "uint8")
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


TABLES: dict[str, Callable[[Path], str]] = {
    "memory": memory,
    "wrappers": wrappers,
    "state_bytes": state_bytes,
    "planning": planning,
}
