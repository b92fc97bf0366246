"""Does a test fail for every mutant of the modules? `make mutants` runs this.

MODULES are paths such as _core/rule; without any, all of config.toml's are mutated. Each mutant
stands in a copy of the repository while the tests of its module run there, the quickest first,
until one fails. Every survivor must be in equivalent.toml, with the reason why nothing can tell it
from the original, and every mutant listed there must survive. A run that was interrupted goes on
with the verdicts in build/mutants/verdicts.jsonl, as long as the tests that gave them are the same.
"""

import argparse
import hashlib
import importlib.metadata
import json
import platform
import queue
import shutil
import subprocess
import sys
import threading
import time
import tomllib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

from tests.mutation.mutants import Mutant, mutants, program
from tests.mutation.processes import failing_test

ROOT = Path(__file__).parents[2]
HERE = ROOT / "tests" / "mutation"
BUILD = ROOT / "build" / "mutants"
CONFIG = tomllib.loads((HERE / "config.toml").read_text())
COPIED = ("adadelta_jax", "tests", "benchmarks", "examples", "pyproject.toml")


class Verdicts:
    """The verdicts so far, in a file to which each new one is added."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.lock = path, threading.Lock()
        lines = path.read_text().splitlines() if path.exists() else []
        self.known = {entry["mutant"]: entry for entry in map(json.loads, lines)}

    def get(self, mutant: Mutant) -> dict | None:
        """The verdict, if the tests that gave it are the same."""
        entry = self.known.get(digest(repr(program(mutant.source))))
        valid = entry and entry["tests"] == tests_digest(mutant, entry["killed_by"])
        return entry if valid else None

    def add(self, mutant: Mutant, killed_by: str | None, seconds: float) -> None:
        """Add which test killed the mutant, None for a survivor."""
        entry = {
            "mutant": digest(repr(program(mutant.source))),
            **{name: getattr(mutant, name) for name in Mutant._fields[:4]},
            "killed_by": killed_by,
            "tests": tests_digest(mutant, killed_by),
            "seconds": round(seconds, 1),
        }
        with self.lock, self.path.open("a") as file:
            self.known[entry["mutant"]] = entry
            file.write(json.dumps(entry) + "\n")

    def keep(self, all_mutants: list[Mutant]) -> None:
        """Drop the verdicts on mutants of these modules that no longer exist."""
        modules = {mutant.module for mutant in all_mutants}
        present = {digest(repr(program(mutant.source))) for mutant in all_mutants}
        kept = [
            entry
            for key, entry in self.known.items()
            if key in present or entry["module"] not in modules
        ]
        self.path.write_text("".join(json.dumps(entry) + "\n" for entry in kept))


def digest(text: str) -> str:
    """A short digest of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def tests_digest(mutant: Mutant, killed_by: str | None) -> str:
    """A digest of the file with the test that killed a mutant, or of all files that did not."""
    run = chain(*stages(mutant)) if killed_by is None else [killed_by.split("::")[0]]
    paths = [ROOT / test for test in run]
    files = chain(*(sorted(path.rglob("*.py")) if path.is_dir() else [path] for path in paths))
    return digest("".join(file.read_text() for file in files))


def stages(mutant: Mutant) -> list[list[str]]:
    """The tests for a mutant: one pytest runs each list; the next list runs if it passes."""
    module = CONFIG["modules"][mutant.module]
    first = module.get("first", {}).get(mutant.function)
    return [first, *module["stages"]] if first else module["stages"]


def killer(copy: Path, mutant: Mutant, timeouts: dict[tuple, float]) -> str | None:
    """The test that fails for the mutant, None if none does."""
    path = copy / "adadelta_jax" / f"{mutant.module}.py"
    original = path.read_text()
    path.write_text(mutant.source)
    try:
        for tests in stages(mutant):
            killed_by = failing_test(copy, tests, timeouts[tuple(tests)])
            if killed_by is not None:
                return killed_by
        return None
    finally:
        path.write_text(original)


def copies(count: int) -> list[Path]:
    """Fresh copies of the files that the tests need."""
    paths = [BUILD / f"copy-{i}" for i in range(count)]
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)
        for name in COPIED:
            source = ROOT / name
            copy = shutil.copytree if source.is_dir() else shutil.copy2
            path.mkdir(parents=True, exist_ok=True)
            options = {"ignore": shutil.ignore_patterns("__pycache__")} if source.is_dir() else {}
            copy(source, path / name, **options)
    return paths


def timeouts_of(copy: Path, pending: list[Mutant], timeout: float | None) -> dict[tuple, float]:
    """The seconds that each stage may take, measured with the original, which must pass."""
    timeouts = {tuple(tests): timeout for mutant in pending for tests in stages(mutant)}
    for tests in timeouts if timeout is None else ():
        start = time.monotonic()
        failed = failing_test(copy, list(tests), 3600)
        if failed is not None:
            sys.exit(f"{failed} fails without any mutant")
        seconds = time.monotonic() - start
        timeouts[tests] = CONFIG["timeout"]["least"] + CONFIG["timeout"]["factor"] * seconds
        print(f"{seconds:6.1f} s for {' '.join(tests)}", flush=True)
    return timeouts


def run(pending: list[Mutant], verdicts: Verdicts, jobs: int, timeout: float | None) -> None:
    """Run the tests for each mutant, `jobs` mutants at a time."""
    if not pending:
        return
    free: queue.Queue[Path] = queue.Queue()
    for copy in (paths := copies(jobs)):
        free.put(copy)
    timeouts = timeouts_of(paths[0], pending, timeout)

    def judge(index: int) -> None:
        mutant, copy, start = pending[index], free.get(), time.monotonic()
        killed_by = killer(copy, mutant, timeouts)
        free.put(copy)
        verdicts.add(mutant, killed_by, time.monotonic() - start)
        verdict = f"killed by {killed_by}" if killed_by else f"SURVIVES: {mutant.after}"
        print(f"{index + 1}/{len(pending)} {mutant.module} {verdict}", flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(judge, range(len(pending))))


def listed_reasons() -> dict[tuple, str]:
    """The reason for each mutant in equivalent.toml, by the fields that name it."""
    entries = tomllib.loads((HERE / "equivalent.toml").read_text())["mutants"]
    return {
        (entry["module"], entry["function"], entry["before"], after): entry["reason"]
        for entry in entries
        for after in entry["after"]
    }


def report(all_mutants: list[Mutant], verdicts: Verdicts) -> bool:
    """Print survivors, wrong entries of equivalent.toml and the table; whether nothing is amiss."""
    listed = listed_reasons()
    counts: dict[str, Counter] = {mutant.module: Counter() for mutant in all_mutants}
    amiss = []
    for mutant in all_mutants:
        entry = verdicts.get(mutant)
        reason = listed.pop(mutant[:4], None)
        survives = entry is not None and entry["killed_by"] is None
        outcome = "killed" if not survives else "equivalent" if reason else "surviving"
        counts[mutant.module].update(["mutants", outcome])
        if entry and (entry["killed_by"] or "").endswith("::timeout"):
            counts[mutant.module]["of them by time"] += 1
        if outcome == "surviving":
            amiss.append(("survives", mutant[:4]))
        if reason and not survives:
            amiss.append((f"is listed, but killed by {entry and entry['killed_by']}", mutant[:4]))
    amiss += [("is listed, but there is none", key) for key in listed if key[0] in counts]
    for what, key in amiss:
        names = zip(Mutant._fields, map(json.dumps, key), strict=False)
        print(f"\n# {what}\n" + "\n".join(f"{name} = {text}" for name, text in names))
    columns = ["mutants", "killed", "of them by time", "equivalent", "surviving"]
    print("\n| module | " + " | ".join(columns) + " |\n|" + " --- |" * (len(columns) + 1))
    for module, count in counts.items():
        print(f"| {module} | " + " | ".join(str(count[column]) for column in columns) + " |")
    if not amiss and counts.keys() == CONFIG["modules"].keys():
        write_results({module: {c: n[c] for c in columns} for module, n in counts.items()})
    return not amiss


def write_results(modules: dict) -> None:
    """Write the table that the documents quote, the commit that it is of, and the versions."""
    packages = ("cosmic-ray", "jax", "jaxlib", "optax", "numpy", "pytest")
    versions = {name: importlib.metadata.version(name) for name in packages}
    head = ["git", "rev-parse", "--short", "HEAD"]
    results = {
        "commit": subprocess.check_output(head, cwd=ROOT, text=True).strip(),
        "modules": modules,
        "versions": {"python": platform.python_version(), **versions},
    }
    path = ROOT / "benchmarks" / "results" / "mutants.json"
    path.write_text(json.dumps(results, indent=1) + "\n")


def main() -> None:
    """Find the mutants, run what is not known yet, and report; exit 1 where something is amiss."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", default=list(CONFIG["modules"]))
    parser.add_argument("--jobs", type=int, default=1, help="how many mutants at a time")
    parser.add_argument("--timeout", type=float, help="seconds a pytest may take; else measured")
    arguments = parser.parse_args()

    all_mutants = []
    for module in arguments.modules:
        source = (ROOT / "adadelta_jax" / f"{module}.py").read_text()
        all_mutants += mutants(module, source, CONFIG["operators"])
    verdicts = Verdicts(BUILD / "verdicts.jsonl")
    pending = [m for m in all_mutants if verdicts.get(m) is None]
    print(f"{len(all_mutants)} mutants, {len(pending)} of them to run", flush=True)
    run(pending, verdicts, arguments.jobs, arguments.timeout)
    verdicts.keep(all_mutants)
    sys.exit(0 if report(all_mutants, verdicts) else 1)


if __name__ == "__main__":
    main()
