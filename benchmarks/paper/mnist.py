"""The paper's two tables on MNIST: test error of its network after 6 epochs, at all 27 settings.

Parts:
  paper    ADADELTA (this package's) at 12 settings, and SGD, momentum and ADAGRAD (Optax's) at 5
           learning rates each; beside each mean the paper's figure, quoted from memory
  control  torch.optim.Adadelta from the same starts, with the same digits in the same order
  search   some of the settings under other starts and pixels, of which the paper gives neither;
           with other seeds than those of the tables

Every trained network's errors are kept in a file at once, so that an interrupted run goes on where
it stopped. Whatever decides them is part of the file's name, versions of packages included.
"""

import functools
import hashlib
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import tqdm

from benchmarks.common import finished_runs, measuring, reporting
from benchmarks.paper import figure, settings
from benchmarks.paper import network as paper_network
from benchmarks.paper.network import Digits
from benchmarks.paper.settings import PAPER, Setting

PARTS = ("paper", "control", "search")
RUNS = paper_network.ROOT / "runs" / "zeiler_mnist"
# Part of what decides a network's errors: raise it when networks are trained in another way.
RECIPE = 1
PACKAGES = ("adadelta-jax", "jax", "jaxlib", "optax", "torch")

SEEDS, QUICK_SEEDS = 5, 2
SEARCH_SEEDS = range(1000, 1001)

PAPER_COLUMNS = {
    "mean": reporting.number("mean", ".3f"),
    "standard error": reporting.number("standard_error", ".3f"),
    "paper, from memory": reporting.number("paper", ".2f"),
    "less the paper's": reporting.number("less_paper", "+.3f"),
}
CONTROL_COLUMNS = {
    "mean": reporting.number("mean", ".3f"),
    "standard error": reporting.number("standard_error", ".3f"),
    "less ours": reporting.number("difference", "+.3f"),
    "standard error of that": reporting.number("difference_standard_error", ".3f"),
}
SEARCH_COLUMNS = {
    "pixels": lambda row: row["pixels"],
    "weights": lambda row: row["initialisation"],
    "mean": reporting.number("mean", ".2f"),
    "paper, from memory": reporting.number("paper", ".2f"),
}


class Start(NamedTuple):
    """What the paper does not give."""

    pixels: str  # one of paper_network.PIXELS
    initialisation: str  # one of paper_network.INITIALISATIONS


START = Start("standardised", "lecun_normal")
SEARCHED = [
    START,
    Start("centred", "normal_0.1"),
    Start("0_to_1", "normal_0.1"),
    Start("0_to_1", "normal_0.01"),
    Start("0_to_1", "torch"),
    Start("normalised", "lecun_normal"),
    Start("minus_1_to_1", "lecun_normal"),
]


class Task(NamedTuple):
    """What networks learn, for how long, and where their errors are kept."""

    seen: Callable[[str], tuple[Digits, Digits]]  # to train on and to test on, by pixels
    digest: str  # of the digits
    epochs: int
    runs: Path


def load(quick: bool, data_dir: Path | None, runs: Path) -> Task:
    """The paper's task, or a tiny one."""
    if quick:
        digits = paper_network.random_digits(200), paper_network.random_digits(100)
    else:
        digits = paper_network.mnist(data_dir)
    digest = hashlib.sha256()
    for array in jax.tree.leaves(digits):
        digest.update(np.asarray(array).tobytes())
    # One is enough: networks with the same pixels are trained one after another.
    seen = functools.lru_cache(maxsize=1)(functools.partial(paper_network.scaled, *digits))
    return Task(seen, digest.hexdigest(), 2 if quick else paper_network.EPOCHS, runs)


def errors(task: Task, start: Start, setting: Setting, seed: int, library: str = "jax"):
    """The test error, in %, after each epoch; trained now if it was not before."""
    recipe = {
        "recipe": RECIPE,
        "library": library,
        **setting._asdict(),
        **start._asdict(),
        "seed": seed,
        "epochs": task.epochs,
        "batch": paper_network.BATCH,
        "sizes": list(paper_network.SIZES),
        "digits": task.digest,
        "versions": {name: reporting.versions()[name] for name in PACKAGES},
    }

    def train() -> list[float]:
        digits = task.seen(start.pixels)
        how = {"seed": seed, "epochs": task.epochs, "initialisation": start.initialisation}
        if library == "torch":
            from benchmarks.paper import torch_control  # the only part that needs torch

            of_torch = {"rho": setting.rho, "eps": setting.eps}
            return list(torch_control.errors_by_epoch(*digits, **of_torch, **how))
        optimizer = settings.optimizer(setting)
        return list(paper_network.errors_by_epoch(optimizer, *digits, **how))

    return finished_runs.kept(task.runs, f"{library} {setting} seed={seed}", recipe, train)


def measure_paper(
    task: Task, start: Start, settings: Iterable[Setting], seeds: Iterable[int]
) -> list[reporting.Row]:
    """A row for each setting.

    Training is one network after another: `jax.vmap` over seeds was slower on CPU.
    """
    found: dict[Setting, list[list[float]]] = {setting: [] for setting in settings}
    networks = list(itertools.product(seeds, found))
    for seed, setting in tqdm.tqdm(networks, desc="paper", disable=None):
        found[setting].append(errors(task, start, setting, seed))
    rows = [
        row_of(setting, start, by_seed) | {"paper": PAPER[setting]}
        for setting, by_seed in found.items()
    ]
    for row in rows:
        row["less_paper"] = row["mean"] - row["paper"]
    title = f"test error, %; pixels {start.pixels}, weights {start.initialisation}"
    reporting.print_table(title, rows, PAPER_COLUMNS)
    return rows


def measure_control(task: Task, start: Start, seeds: Iterable[int]) -> list[reporting.Row]:
    """A row for each library, torch's with the differences from ours, seed by seed."""
    setting = settings.CONTROLLED
    found: dict[str, list[list[float]]] = {"jax": [], "torch": []}
    networks = list(itertools.product(seeds, found))
    for seed, library in tqdm.tqdm(networks, desc="control", disable=None):
        found[library].append(errors(task, start, setting, seed, library))
    ours, torch = (
        row_of(setting, start, by_seed) | {"contender": library}
        for library, by_seed in found.items()
    )
    pairs = zip(found["torch"], found["jax"], strict=True)
    differences = [theirs[-1] - our[-1] for theirs, our in pairs]
    torch |= measuring.mean_and_standard_error(differences, "difference")
    rows = [ours, torch]
    reporting.print_table(f"control: test error, %; {setting}", rows, CONTROL_COLUMNS)
    return rows


def measure_search(
    task: Task, starts: Iterable[Start], settings: Iterable[Setting], seeds: Iterable[int]
) -> list[reporting.Row]:
    """A row for each start and setting."""
    found: dict[tuple[Start, Setting], list[list[float]]] = {}
    networks = list(itertools.product(starts, settings, seeds))
    for start, setting, seed in tqdm.tqdm(networks, desc="search", disable=None):
        found.setdefault((start, setting), []).append(errors(task, start, setting, seed))
    rows = [
        row_of(setting, start, by_seed) | {"paper": PAPER[setting]}
        for (start, setting), by_seed in found.items()
    ]
    reporting.print_table("search: test error, %", rows, SEARCH_COLUMNS)
    return rows


def row_of(setting: Setting, start: Start, by_seed: list[list[float]]) -> reporting.Row:
    """What was run, its errors by seed and epoch, and the mean of the last with its error."""
    return {
        "contender": str(setting),
        **setting._asdict(),
        **start._asdict(),
        "errors": by_seed,
        **measuring.mean_and_standard_error([by_epoch[-1] for by_epoch in by_seed]),
    }


def main() -> None:
    """Train what is not trained yet, print, write."""
    parser = measuring.argument_parser(__doc__, PARTS, settings.METHODS, rounds=None)
    parser.add_argument(
        "--parts", dest="only", nargs="+", choices=PARTS, metavar="PART", help="the same as --only"
    )
    parser.add_argument(
        "--pixels", choices=paper_network.PIXELS, default=START.pixels, help="of the tables"
    )
    parser.add_argument(
        "--initialisation",
        choices=paper_network.INITIALISATIONS,
        default=START.initialisation,
        help="how the weights of the tables start",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        choices=range(2, 101),
        metavar="N",
        help=f"of the tables (default: {SEEDS}, with --quick {QUICK_SEEDS})",
    )
    measuring.add_folders(parser, RUNS)
    args = measuring.parse(parser)
    task = load(args.quick, args.data_dir, args.runs)
    start = Start(args.pixels, args.initialisation)
    quick = args.quick
    of_control = QUICK_SEEDS if quick else SEEDS
    args.seeds = args.seeds or of_control
    compared = [
        setting
        for setting in (settings.QUICK if quick else PAPER)
        if setting.method in args.contenders
    ]
    starts = SEARCHED[:2] if quick else SEARCHED
    searched = settings.SEARCHED[:1] if quick else settings.SEARCHED
    measure = {
        "paper": lambda: measure_paper(task, start, compared, range(args.seeds)),
        "control": lambda: measure_control(task, start, range(of_control)),
        "search": lambda: measure_search(task, starts, searched, SEARCH_SEEDS),
    }
    rows = [{"work": part} | row for part in args.only for row in measure[part]()]
    if args.json:
        reporting.write_json(args.json, "zeiler_mnist", args, rows)
    if args.plot:
        figure.draw(args.plot, rows)


if __name__ == "__main__":
    main()
