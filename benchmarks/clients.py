"""Which libraries train with this optimizer as with Optax's: their tests, run on this stack.

Runs tests/clients and keeps, for every library, its version and how many of its tests passed,
beside what the JSON file holds of other stacks. Run it in an environment for each:

    .venv/bin/python -m benchmarks.clients
    .venv-newest/bin/python -m benchmarks.clients
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from benchmarks.common.reporting import markdown, read

ROOT = Path(__file__).parents[1]
JSON = Path("benchmarks", "results", "clients.json")


class Client(NamedTuple):
    """A library, how its users train with it, and the tests that do."""

    way: str
    package: str
    tests: tuple[str, ...]


CLIENTS = {
    "Optax": Client(
        "every transformation that takes another, alone and two deep", "optax", ("optax_wrappers",)
    ),
    "Equinox": Client(
        "`init(eqx.filter(model, eqx.is_inexact_array))`, then `update(grads, state, model)`",
        "equinox",
        ("equinox", "equinox_loops"),
    ),
    "Flax NNX": Client(
        "`nnx.Optimizer(model, adadelta(), wrt=nnx.Param)`", "flax", ("flax", "nnx")
    ),
    "Flax Linen": Client(
        "`TrainState.create(..., tx=adadelta())`, boxed parameters too",
        "flax",
        ("linen", "sharding_metadata"),
    ),
    "the MNIST tutorials of Equinox and Flax": Client(
        "with only the optimizer's line changed", "flax", ("tutorials",)
    ),
    "Haiku": Client("`transform`, `transform_with_state`", "dm-haiku", ("haiku",)),
    "NumPyro": Client("`SVI(model, guide, adadelta(), ...)`", "numpyro", ("numpyro",)),
    "Optimistix": Client("`OptaxMinimiser(adadelta(), ...)`", "optimistix", ("solvers",)),
    "Keras on JAX": Client("`stateless_call`, against the Adadelta of Keras", "keras", ("keras",)),
    "jmp": Client("half-precision gradients, loss scales", "jmp", ("mixed_precision",)),
}


def results_by_file() -> dict[str, Counter]:
    """How many tests of each file of tests/clients passed, failed or were skipped."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "tests/clients", f"--junitxml={report}"],
            cwd=ROOT,
            check=False,  # failures are counted
        )
        found: dict[str, Counter] = {}
        for case in ET.parse(report).iter("testcase"):
            name = case.get("classname", "").rsplit("test_", 1)[-1]
            kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
            found.setdefault(name, Counter())[kinds.pop() if kinds else "passed"] += 1
        return found


def main() -> None:
    """Run the tests, and keep the results of this stack."""
    os.chdir(ROOT)
    by_file = results_by_file()
    stack = f"JAX {version('jax')}, Python {platform.python_version()}"
    results = {}
    for name, client in CLIENTS.items():
        counts = sum((by_file[each] for each in client.tests), Counter())
        results[name] = {"version": version(client.package), **counts}
        print(f"{name:40} {results[name]}")
    report = json.loads(JSON.read_text()) if JSON.exists() else {"stacks": {}}
    report["stacks"][stack] = results
    JSON.write_text(json.dumps(report, indent=1) + "\n")


def clients(results: Path) -> str:
    """Every library, how it is used, and its results on every stack."""
    stacks = read(results, "clients")["stacks"]
    rows = []
    for name, client in CLIENTS.items():
        tests = ", ".join(f"[`{t}`](../tests/clients/test_{t}.py)" for t in client.tests)
        rows.append([name, client.way, tests, *(_result(stack[name]) for stack in stacks.values())])
    return markdown(["", "how", "tests", *stacks], rows)


def _result(row: dict) -> str:
    counts = [f"{row[kind]} {kind}" for kind in row if kind != "version"]
    return f"{row['version']}: {', '.join(counts)}"


TABLES = {"clients": clients}

if __name__ == "__main__":
    main()
