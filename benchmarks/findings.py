"""The tables of what long runs, fuzzing and mutation testing found: numerics.md."""

import collections
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common.reporting import markdown, read

ENDS = {
    "ADADELTA_JAX_FUZZ": "random runs against torch",
    "ADADELTA_JAX_FUZZ_DAMAGE": "random and damaged inputs",
}


def read_lines(results: Path, benchmark: str) -> list[dict[str, Any]]:
    """The JSON lines that a run of tests left."""
    return [json.loads(line) for line in (results / f"{benchmark}.jsonl").read_text().splitlines()]


def long_runs(results: Path) -> str:
    """The largest errors against float64, over all steps, by accumulators and gradients."""
    rows = []
    for row in read_lines(results, "long_runs"):
        errors = [f"{row[name]:.1e}" for name in ("square_avg", "acc_delta", "path")]
        stored = f"{row['accumulators']}, ρ = {row['rho']}"
        rows.append([stored, row["stream"], f"{row['steps']:,}", *errors])
    return markdown(["accumulators", "gradients", "steps", "v", "u", "path"], rows)


def fuzz(results: Path) -> str:
    """How many cases there were, of which seeds, and how they ended."""
    rows = []
    for kind, title in ENDS.items():
        lines = [line for line in read_lines(results, "fuzz") if line["kind"] == kind]
        ends = sum((collections.Counter(line["ends"]) for line in lines), collections.Counter())
        failed = sum(line["failed"] for line in lines)
        first, last = min(line["first"] for line in lines), max(line["last"] for line in lines)
        ended = ", ".join(f"{end}: {count:,}" for end, count in sorted(ends.items()))
        rows.append(
            [title, f"{ends.total() + failed:,}", f"{first:,} to {last:,}", ended, f"{failed:,}"]
        )
    return markdown(["", "cases", "seeds", "how they ended", "failed"], rows)


def mutant_counts(results: Path) -> collections.Counter[str]:
    """The mutants of all modules together, by what became of them."""
    modules = read(results, "mutants")["modules"].values()
    return sum((collections.Counter(counts) for counts in modules), collections.Counter())


def mutants(results: Path) -> str:
    """What became of the mutants of each module, and the commit that they were made of."""
    columns = ("mutants", "killed", "equivalent", "surviving")
    report = read(results, "mutants")
    modules = {f"`{module}.py`": counts for module, counts in report["modules"].items()}
    modules["all"] = mutant_counts(results)
    lines = [[name, *(str(counts[c]) for c in columns)] for name, counts in modules.items()]
    commit = f"module, at commit {report['commit']}"
    return markdown([commit, "mutants", "caught", "equivalent", "surviving"], lines)


TABLES: dict[str, Callable[[Path], str]] = {
    "long_runs": long_runs,
    "fuzz": fuzz,
    "mutants": mutants,
}
