"""The tables of time, memory and compilation: performance.md and the README."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common.reporting import Row, markdown, read

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

Work = dict[str, Row]  # the rows of one work, by contender


def works(results: Path, benchmark: str, **where: Any) -> dict[str, Work]:
    """The works of a benchmark by name; of its rows those with these values, and with numbers."""
    found: dict[str, Work] = {}
    for row in read(results, benchmark)["results"]:
        if where.items() <= row.items() and "note" not in row:
            found.setdefault(row["work"], {})[row["contender"]] = row
    return found


def ratio(work: Work, *names: str) -> str:
    """Our median divided by the best of theirs; empty if none took part."""
    theirs = [work[name]["median_ms"] for name in names if name in work]
    return f"{work[OURS]['median_ms'] / min(theirs):.2f}" if theirs else ""


# The benchmarks of the performance page, and the names of their results.
MODULES = {
    "speed.step_time": "step_time",
    "speed.train_step": "train_step",
    "memory.step": "memory",
    "speed.compile_time": "compile_time",
}


def label(name: str, work: Work) -> list[str]:
    """The first cells of a work's line: what it is, and how many parameters it has."""
    return [WORKS[name], f"{work[OURS]['parameters'] / 1e6:.1f} M"]


def machine(results: Path) -> str:
    """On what each benchmark ran, and for how many rounds."""
    packages = ("python", "jax", "optax", "torch", "keras")
    header = ["measured by", "rounds", "processor", "cores", "memory, GiB", *packages]
    rows = []
    for module, name in MODULES.items():
        report = read(results, name)
        of_machine = [str(report["machine"][key]) for key in ("cpu", "cores", "memory_gib")]
        versions = [report["versions"].get(package, "") for package in packages]
        rounds = str(report["settings"].get("rounds", ""))
        rows.append([f"`python -m benchmarks.{module}`", rounds, *of_machine, *versions])
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


TABLES: dict[str, Callable[[Path], str]] = {
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
    "compile_time": compile_time,
}
