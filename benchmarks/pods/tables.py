"""The tables of TPUs and GPUs: what a step moves and keeps, and what each chip holds and sends."""

from collections.abc import Callable
from pathlib import Path

from benchmarks.common.reporting import Row, markdown, read

PEERS = {"optax": "Optax", "adam": "optax.adam", "keras": "Keras"}
CHIPS = {"v5e": "TPU v5e", "v6e": "TPU v6e", "h100": "H100"}


def pods_step(results: Path) -> str:
    """Bytes per parameter that a step moves, and keeps as scratch, by chip and contender."""
    settings: dict[str, dict[tuple[str, str], Row]] = {}
    for row in read(results, "pods_step")["results"]:
        settings.setdefault(row["work"], {})[row["chip"], row["contender"]] = row

    def cell(found: dict[tuple[str, str], Row], chip: str, contender: str) -> str:
        row = found.get((chip, contender))
        if row is None:
            return ""
        moved, scratch = row["accessed_bytes_per_parameter"], row["scratch_bytes_per_parameter"]
        return f"{moved:.1f}" + (f" ({scratch:.1f})" if scratch >= 0.05 else "")

    rows = []
    for name, found in settings.items():
        floor = next(iter(found.values()))["floor_bytes_per_parameter"]
        ours = [cell(found, chip, "adadelta_jax") for chip in CHIPS]
        theirs = [cell(found, "v5e", peer) for peer in PEERS]
        rows.append([name, f"{floor}", *ours, *theirs])
    peers = [f"{name}, TPU v5e" for name in PEERS.values()]
    return markdown(["", "at least", *(f"ours, {chip}" for chip in CHIPS.values()), *peers], rows)


def pods_layouts(results: Path) -> str:
    """Megabytes that each chip holds and sends in a training step, by layout."""
    names = {"adadelta_jax": "ours", "adadelta_jax_bfloat16": "ours, bfloat16 state"} | PEERS
    rows = [
        [
            row["work"],
            names[row["contender"]],
            f"{row['argument_bytes'] / 1e6:.1f}",
            f"{row['scratch_bytes'] / 1e6:.1f}",
            ", ".join(f"{kind} {size / 1e6:.1f}" for kind, size in row["collective_bytes"].items()),
        ]
        for row in read(results, "pods_layouts")["results"]
    ]
    return markdown(["layout, chips", "", "arguments", "scratch", "collectives"], rows)


TABLES: dict[str, Callable[[Path], str]] = {"pods_step": pods_step, "pods_layouts": pods_layouts}
