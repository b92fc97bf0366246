"""Trained networks' errors, kept in files, so that an interrupted run goes on where it stopped."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

Recipe = dict[str, Any]  # all that decides a network's errors; JSON


def errors(folder: Path, name: str, recipe: Recipe, train: Callable[[], list[float]]):
    """What `train` returns, or returned when it was last called for the same recipe.

    Args:
        folder: Where the files are; it need not exist yet.
        name: The beginning of the file's name, for people.
        recipe: Any difference in it is another file.
        train: Trains the network; called only if there is no whole file.

    Returns:
        The test error, in %, after each epoch.
    """
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    path = folder / f"{name.replace(' ', '_')}_{digest}.json"
    try:
        cell = json.loads(path.read_text())
        if cell["recipe"] == recipe:
            return cell["errors"]
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        pass  # not there, or damaged
    found = train()
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps({"recipe": recipe, "errors": found}, indent=1) + "\n")
    partial.replace(path)  # at once: whoever looks finds the whole file or none
    return found
