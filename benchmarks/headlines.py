"""The table of the README: the figures that say most, each with the command that prints it."""

from collections.abc import Callable
from pathlib import Path

from benchmarks.common.reporting import markdown, read
from benchmarks.findings import mutant_counts, read_lines
from benchmarks.paper.settings import PAPER, Setting
from benchmarks.paper.tables import rows_of
from benchmarks.speed.tables import OURS, works

BEST = Setting("adadelta", rho=0.95, eps=1e-6)


def headlines(results: Path) -> str:
    """One figure a line."""
    work = works(results, "step_time", dtype="float32", weight_decay=0.0)["8_large"]
    times = {peer: work[OURS]["median_ms"] / work[peer]["median_ms"] for peer in work}
    narrow = [
        row["state_bytes_per_parameter"]
        for row in read(results, "accumulators")["results"]
        if (row["work"], row["contender"]) == ("bytes", "uint8")
    ]
    (paper,) = (row for row in rows_of(results, "paper") if row["contender"] == str(BEST))
    (torch,) = (row for row in rows_of(results, "control") if row["contender"] == "torch")
    fuzzed = read_lines(results, "fuzz")
    changes = mutant_counts(results)
    cases = sum(sum(line["ends"].values()) + line["failed"] for line in fuzzed)
    rows = [
        [
            "a float32 step of 33.6 M parameters on 2 CPU cores, of the time of `optax.adadelta`; "
            "of torch's, eager",
            f"{times['optax']:.2f}; {times['torch_for_loop']:.2f}",
            "`python -m benchmarks.speed.step_time`",
        ],
        [
            'bytes of state per parameter with `accumulator_dtype="uint8"`',
            f"{max(narrow):.2f}",
            "`python -m benchmarks.accumulators.compare`",
        ],
        [
            f"test error of the paper's network on MNIST, ρ = 0.95, ε = 1e-6 (the paper: "
            f"{PAPER[BEST]:.2f} %, quoted from memory)",
            f"{paper['mean']:.2f} ± {paper['standard_error']:.2f} %",
            "`python -m benchmarks.paper.mnist`",
        ],
        [
            "the same trained by `torch.optim.Adadelta`, less ours, from the same starts",
            f"{torch['difference']:+.3f} ± {torch['difference_standard_error']:.3f} %",
            "`python -m benchmarks.paper.mnist`",
        ],
        [
            "random runs against torch, and random or damaged inputs; failed",
            f"{cases:,}; {sum(line['failed'] for line in fuzzed):,}",
            "`make fuzz`",
        ],
        [
            "changes of one thing in the source; noticed by a test; known to make no difference",
            f"{changes['mutants']:,}; {changes['killed']:,}; {changes['equivalent']:,}",
            "`make mutants`",
        ],
    ]
    return markdown(["", "", "printed by"], rows)


TABLES: dict[str, Callable[[Path], str]] = {"headlines": headlines}
