"""How time is measured: every contender in turn, many rounds, in one process; and what numbers say.

Other programs, the clock and the memory of a machine drift over seconds. Contenders that take turns
(A B C A B C ...) drift together, so that their ratios hold where their times do not.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import tqdm

# Idle worker threads of the last contender spin for some milliseconds before they sleep.
PAUSE_SECONDS = 0.01


def time_in_turn(
    steps: Mapping[str, Callable[[], object]], rounds: int, turn_seconds: float = 0.02
) -> dict[str, list[float]]:
    """The seconds that one call of each step takes, once for every round.

    Args:
        steps: By name, functions that take one step and return when it is done. They are warm:
            called at least once before.
        rounds: How often every step gets a turn.
        turn_seconds: How long a turn lasts at least. A step that is shorter is called as often as
            it takes, and its time is the mean over the turn.

    Returns:
        By name, `rounds` times in seconds.
    """
    calls = {name: _calls_to_fill(turn_seconds, step) for name, step in steps.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in tqdm.trange(rounds, desc="rounds", leave=False, disable=None):
        for name, step in steps.items():
            time.sleep(PAUSE_SECONDS)
            seconds[name].append(_seconds(step, calls[name]))
    return seconds


def _calls_to_fill(seconds: float, step: Callable[[], object]) -> int:
    once = _seconds(step, 1)
    if once < seconds:
        once = min(once, _seconds(step, 10))
    return max(1, math.ceil(seconds / once))


def _seconds(step: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        step()
    return (time.perf_counter() - start) / calls


def mean_and_standard_error(numbers: Sequence[float], name: str = "") -> dict[str, float]:
    """The row entries mean and standard_error, or NAME and NAME_standard_error.

    Of one number there is no standard error.
    """
    found = {name or "mean": statistics.fmean(numbers)}
    if len(numbers) > 1:
        error = statistics.stdev(numbers) / math.sqrt(len(numbers))
        found[f"{name}_standard_error" if name else "standard_error"] = error
    return found


def median_and_quartiles(seconds: list[float], name: str = "") -> dict[str, float]:
    """The row entries median_ms, lower_quartile_ms, upper_quartile_ms, or NAME_median_ms, ..."""
    quartiles = (
        seconds * 3 if len(seconds) == 1 else statistics.quantiles(seconds, method="inclusive")
    )
    keys = ("lower_quartile_ms", "median_ms", "upper_quartile_ms")
    prefix = f"{name}_" if name else ""
    return {prefix + key: 1e3 * value for key, value in zip(keys, quartiles, strict=True)}


def argument_parser(
    description: str | None,
    works: Iterable[str],
    contenders: Iterable[str],
    rounds: int | None = 20,
) -> argparse.ArgumentParser:
    """The flags that every benchmark has. `rounds`: the default of --rounds; None: no such flag."""
    works, contenders = list(works), list(contenders)
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if rounds is not None:
        parser.add_argument(
            "--rounds",
            type=_at_least_one,
            metavar="N",
            help=f"turns that every contender gets (default: {rounds}, with --quick 2)",
        )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=works,
        default=works,
        metavar="WORK",
        help=f"measure these alone, of {', '.join(works)}",
    )
    parser.add_argument(
        "--contenders",
        nargs="+",
        choices=contenders,
        default=contenders,
        metavar="NAME",
        help=f"compare these alone, of {', '.join(contenders)}",
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes: shows that all works, measures nothing"
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the results there")
    parser.add_argument(
        "--plot", type=Path, metavar="PATH", help="draw the results there (.png, .svg)"
    )
    parser.set_defaults(full_rounds=rounds)
    return parser


def add_folders(parser: argparse.ArgumentParser, runs: Path) -> None:
    """The flags of benchmarks that train: --data-dir for MNIST, --runs for what is finished."""
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="the four .gz files of MNIST (default: ../shared/data/mnist if it is there, else they "
        "are downloaded)",
    )
    parser.add_argument(
        "--runs",
        type=Path,
        default=runs,
        metavar="DIR",
        help=f"where finished runs are kept (default: runs/{runs.name})",
    )


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments of the command line, in which --quick decides what --rounds leaves open."""
    args = parser.parse_args()
    full_rounds = args.__dict__.pop("full_rounds")
    if full_rounds is not None and args.rounds is None:
        args.rounds = 2 if args.quick else full_rounds
    for path in (args.json, args.plot):
        if path is not None:  # now, not after an hour of measuring
            path.parent.mkdir(parents=True, exist_ok=True)
    return args


def _at_least_one(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return int(text)
