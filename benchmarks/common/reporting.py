"""What a benchmark leaves behind: tables, a JSON file that names the machine, and a plot."""

import argparse
import importlib.metadata
import json
import os
import platform
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
from matplotlib.figure import Figure

Row = dict[str, Any]

PACKAGES = ("adadelta-jax", "jax", "jaxlib", "optax", "keras", "torch", "flax", "numpy")


def print_table(
    title: str, rows: Iterable[Row], columns: Mapping[str, Callable[[Row], str]]
) -> None:
    """Print a line for each row: its contender, and its cells or the note that it has instead."""
    lines = [["contender", *columns]]
    for row in rows:
        cells = [row["note"]] if "note" in row else [cell(row) for cell in columns.values()]
        lines.append([row["contender"], *cells])
    # A note runs across the columns, and so widens none.
    full = [line for line in lines if len(line) == len(lines[0])]
    widths = [max(len(line[i]) for line in full) for i in range(len(lines[0]))]
    widths[0] = max(len(line[0]) for line in lines)
    print(f"\n{title}")
    for name, *cells in lines:
        if len(cells) < len(columns):
            print(f"  {name:<{widths[0]}}  ({cells[0]})")
        else:
            padded = (f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True))
            print(f"  {name:<{widths[0]}}  {'  '.join(padded)}")
    print(end="", flush=True)


def milliseconds(name: str = "") -> Callable[[Row], str]:
    """A cell with the median and quartiles that `measuring.median_and_quartiles` put in a row."""
    prefix = f"{name}_" if name else ""

    def cell(row: Row) -> str:
        lower, upper = row[f"{prefix}lower_quartile_ms"], row[f"{prefix}upper_quartile_ms"]
        return f"{row[f'{prefix}median_ms']:.4g} ({lower:.4g} to {upper:.4g})"

    return cell


def number(key: str, format_spec: str) -> Callable[[Row], str]:
    """A cell with one number of a row; empty in a row that lacks it."""
    return lambda row: format(row[key], format_spec) if key in row else ""


def write_json(path: Path, benchmark: str, args: argparse.Namespace, rows: list[Row]) -> None:
    """Write the rows, with all that is needed to know what they mean on another machine."""
    paths = ("json", "plot", "data_dir", "runs")  # of this machine
    settings = {key: value for key, value in vars(args).items() if key not in paths}
    report = {
        "benchmark": benchmark,
        "settings": settings,
        "machine": machine(),
        "versions": versions(),
        "results": rows,
    }
    path.write_text(json.dumps(report, indent=1) + "\n")


def machine() -> dict[str, Any]:
    """The machine: its processor, memory and system, and JAX's device."""
    return {
        "cpu": _cpu_model(),
        "cores": cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "os": platform.platform(),
        "device": jax.devices()[0].device_kind,
        "load_average": os.getloadavg()[0],  # over the last minute, this process included
    }


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that can take part, those installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def plot_bars(
    path: Path,
    rows: list[Row],
    *,
    panel: Callable[[Row], str],
    value: str,
    label: str,
    columns: int = 1,
) -> None:
    """Draw a panel for each work, in it a bar for each contender, with quartiles on times."""
    panels: dict[str, list[Row]] = {}
    for row in rows:
        if value in row:
            panels.setdefault(panel(row), []).append(row)
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(6 * columns, 2.4 * lines), layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    for axis, (title, members) in zip(axes, panels.items(), strict=False):
        names = [row["contender"] for row in members]
        values = [row[value] for row in members]
        spread = None
        if value == "median_ms":
            below = [row["median_ms"] - row["lower_quartile_ms"] for row in members]
            above = [row["upper_quartile_ms"] - row["median_ms"] for row in members]
            spread = [below, above]
        bars = axis.barh(names, values, xerr=spread)
        axis.bar_label(bars, fmt="%.3g", padding=2)
        axis.invert_yaxis()
        axis.margins(x=0.15)
        axis.set(title=title, xlabel=label)
    figure.savefig(path, dpi=120)


def read(results: Path, benchmark: str) -> dict[str, Any]:
    """The JSON file that the benchmark wrote."""
    return json.loads((results / f"{benchmark}.json").read_text())


def markdown(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table."""
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
