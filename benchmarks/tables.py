"""The tables of numbers in README.md and docs/*.md, made from the JSON files of benchmarks/results.

A document says where it wants a table by two lines, and this command fills in what is between them:

    <!-- table NAME -->
    <!-- end table -->

A new table is a function from the folder of the JSON files to Markdown, in the tables.py beside its
benchmark, and a line in the `TABLES` there.
"""

import argparse
import re
import sys
from pathlib import Path

from benchmarks import clients, findings, headlines
from benchmarks.accumulators import tables as accumulators
from benchmarks.learning_rate_free import tables as learning_rate_free
from benchmarks.memory import tables as memory
from benchmarks.paper import tables as paper
from benchmarks.pods import tables as pods
from benchmarks.speed import tables as speed

ROOT = Path(__file__).parents[1]
BEGIN = re.compile(r"^<!-- table (\S+) -->$", re.MULTILINE)
END = "<!-- end table -->"

TABLES = {
    name: table
    for module in (
        *(headlines, clients, speed, memory, pods, accumulators, findings, paper),
        learning_rate_free,
    )
    for name, table in module.TABLES.items()
}


def fill(text: str, results: Path) -> tuple[str, list[str]]:
    """A document with its tables filled in, and the names of those that were others before.

    Raises:
        ValueError: If a table is unknown or not closed, or if something else is closed.
    """
    filled, *regions = BEGIN.split(text)
    if END in filled:
        raise ValueError(f"'{END}' before any '<!-- table NAME -->'")
    stale = []
    for name, region in zip(regions[::2], regions[1::2], strict=True):
        old, *after = region.split(END)
        if len(after) != 1:
            raise ValueError(f"table {name} must be closed by one '{END}', got {len(after)}")
        if name not in TABLES:
            raise ValueError(f"table {name} is unknown: there are {', '.join(TABLES)}")
        new = f"\n\n{TABLES[name](results)}\n\n"  # some dialects want empty lines around a table
        if new != old:
            stale.append(name)
        filled += f"<!-- table {name} -->{new}{END}{after[0]}"
    return filled, stale


def update(root: Path, *, write: bool) -> list[str]:
    """The stale tables of a checkout, each after its document; if `write`, they are filled in."""
    found = []
    for document in [root / "README.md", *sorted((root / "docs").glob("*.md"))]:
        where = document.relative_to(root)
        try:
            filled, stale = fill(document.read_text(), root / "benchmarks" / "results")
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        found += [f"{where}: table {name}" for name in stale]
        if write and stale:
            document.write_text(filled)
    return found


def main() -> None:
    """Fill in the tables, or say which are stale."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if a table is stale"
    )
    check = parser.parse_args().check
    try:
        stale = update(ROOT, write=not check)
    except ValueError as error:
        sys.exit(str(error))
    for where in stale:
        print(where, "is stale: run python -m benchmarks.tables" if check else "written")
    sys.exit(1 if check and stale else 0)


if __name__ == "__main__":
    main()
