"""The tables of docs/paper.md, made from benchmarks/results/zeiler_mnist.json.

They hold what that file holds: where settings, starts or libraries are missing, cells are empty.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.common.reporting import Row, markdown, read
from benchmarks.paper.settings import OTHERS, PAPER, RHOS, SEARCHED, Setting

QUOTED = "paper, from memory"
TITLES = {"sgd": "SGD", "momentum": "momentum", "adagrad": "ADAGRAD"}


def rows_of(results: Path, work: str) -> list[Row]:
    """The rows of a part of the benchmark."""
    return [row for row in read(results, "zeiler_mnist")["results"] if row["work"] == work]


def beside_paper(results: Path, settings: list[Setting]) -> list[str]:
    """For each setting two cells: mean ± standard error, and the paper's figure."""
    rows = {row["contender"]: row for row in rows_of(results, "paper")}
    cells = []
    for setting in settings:
        row = rows.get(str(setting))
        cells.append(f"{row['mean']:.2f} ± {row['standard_error']:.2f}" if row else "")
        cells.append(f"{PAPER[setting]:.2f}")
    return cells


def header(first: str, columns: list[str]) -> list[str]:
    """The header over `beside_paper`."""
    return [first, *(title for column in columns for title in (column, QUOTED))]


def adadelta(results: Path) -> str:
    """ADADELTA's 12 settings."""
    epsilons = dict.fromkeys(setting.eps for setting in PAPER if setting.method == "adadelta")
    lines = []
    for eps in epsilons:
        settings = [Setting("adadelta", rho=rho, eps=eps) for rho in RHOS]
        lines.append([f"ε = {eps:g}", *beside_paper(results, settings)])
    return markdown(header("", [f"ρ = {rho}" for rho in RHOS]), lines)


def others(results: Path) -> str:
    """The 15 settings of the other methods."""
    rates = dict.fromkeys(setting.learning_rate for setting in PAPER if setting.method == "sgd")
    lines = []
    for rate in rates:
        settings = [Setting(method, rate) for method in OTHERS]
        lines.append([f"η = {rate:g}", *beside_paper(results, settings)])
    return markdown(header("", [TITLES[method] for method in OTHERS]), lines)


def control(results: Path) -> str:
    """The last errors of both libraries by seed, and how they differ."""
    libraries = {row["contender"]: row for row in rows_of(results, "control")}
    ours, torch = libraries["jax"], libraries["torch"]
    lines = []
    for seed, pair in enumerate(zip(ours["errors"], torch["errors"], strict=True)):
        our, their = (by_epoch[-1] for by_epoch in pair)
        lines.append([str(seed), f"{our:.2f}", f"{their:.2f}", f"{their - our:+.2f}"])
    means = [f"{row['mean']:.3f} ± {row['standard_error']:.3f}" for row in (ours, torch)]
    difference = f"{torch['difference']:+.3f} ± {torch['difference_standard_error']:.3f}"
    lines.append(["mean ± standard error", *means, difference])
    return markdown(["seed", "adadelta_jax", "torch.optim.Adadelta", "difference"], lines)


def search(results: Path) -> str:
    """The errors under every start, and how far they are from the paper's."""
    starts: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows_of(results, "search"):
        start = starts.setdefault((row["pixels"], row["initialisation"]), {})
        start[row["contender"]] = row["mean"]
    settings = [setting for setting in SEARCHED if any(str(setting) in s for s in starts.values())]
    lines = []
    for (pixels, initialisation), means in starts.items():
        found = {setting: means[str(setting)] for setting in settings if str(setting) in means}
        factors = [abs(math.log(mean / PAPER[setting])) for setting, mean in found.items()]
        cells = [f"{found[setting]:.2f}" if setting in found else "" for setting in settings]
        factor = math.exp(sum(factors) / len(factors))
        lines.append([f"`{pixels}`", f"`{initialisation}`", *cells, f"{factor:.2f}"])
    lines.append([QUOTED, "", *(f"{PAPER[setting]:.2f}" for setting in settings), ""])
    return markdown(["pixels", "weights", *map(str, settings), "off by a factor of"], lines)


def run(results: Path) -> str:
    """How many seeds every part had, and on what it ran."""
    report = read(results, "zeiler_mnist")
    seeds = {row["work"]: len(row["errors"]) for row in report["results"]}
    packages = ("python", "jax", "optax", "torch")
    values = [
        *(f"{number} for `{part}`" for part, number in seeds.items()),
        report["machine"]["cpu"],
        str(report["machine"]["cores"]),
        *(report["versions"][package] for package in packages),
    ]
    return markdown([*("seeds" for _ in seeds), "processor", "cores", *packages], [values])


TABLES: Mapping[str, Callable[[Path], str]] = {
    "zeiler_run": run,
    "zeiler_adadelta": adadelta,
    "zeiler_others": others,
    "zeiler_control": control,
    "zeiler_search": search,
}
