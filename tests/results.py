"""Numbers that a long run of tests writes for the documents."""

import json
import os
from pathlib import Path
from typing import Any


def record(benchmark: str, row: dict[str, Any]) -> None:
    """Add a line to the results of a run, if ``ADADELTA_JAX_RESULTS`` names a folder for them.

    Each line is a JSON object, so that several processes can add to one file.
    """
    folder = os.environ.get("ADADELTA_JAX_RESULTS")
    if folder:
        with (Path(folder) / f"{benchmark}.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
