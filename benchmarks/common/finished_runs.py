"""What runs gave, kept in files, so that an interrupted benchmark goes on where it stopped."""

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

Recipe = dict[str, Any]  # all that decides what a run gives; JSON


def kept(folder: Path, name: str, recipe: Recipe, run: Callable[[], Any]) -> Any:
    """What `run` returns, or returned when it was last called for the same recipe.

    Args:
        folder: Where the files are; it need not exist yet.
        name: The beginning of the file's name, for people.
        recipe: Any difference in it is another file.
        run: Returns what can be written as JSON; called only if there is no whole file.
    """
    text = json.dumps(recipe, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = folder / f"{re.sub(r'[^a-zA-Z0-9=.-]+', '_', name)}_{digest}.json"
    try:
        found = json.loads(path.read_text())
        if found["recipe"] == json.loads(text):  # in which tuples are lists
            return found["result"]
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        pass  # not there, or damaged
    result = run()
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps({"recipe": recipe, "result": result}, indent=1) + "\n")
    partial.replace(path)  # at once: whoever looks finds the whole file or none
    return result
