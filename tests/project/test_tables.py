"""The tables of numbers in the documents are those of the benchmarks' JSON files."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from benchmarks import tables

ROOT = Path(__file__).parents[2]
BEGIN, END = "<!-- table memory -->", "<!-- end table -->"


@pytest.fixture
def checkout(monkeypatch, tmp_path):
    """A copy of the documents and of the JSON files, on which the command works."""
    shutil.copy(ROOT / "README.md", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copytree(ROOT / "benchmarks" / "results", tmp_path / "benchmarks" / "results")
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    return tmp_path


def run(monkeypatch, *arguments):
    """The exit status of the command, or the message with which it exits."""
    monkeypatch.setattr(sys, "argv", ["tables", *arguments])
    with pytest.raises(SystemExit) as exit_:
        tables.main()
    return exit_.value.code


def test_every_table_in_the_documents_is_that_of_the_json_files():
    assert tables.update(ROOT, write=False) == []


def test_the_performance_page_has_no_table_that_the_command_does_not_write():
    *regions, outside = (ROOT / "docs" / "performance.md").read_text().split(END)
    assert regions
    for text in [*(tables.BEGIN.split(region)[0] for region in regions), outside]:
        assert "|" not in text


def test_every_ratio_in_the_prose_of_the_performance_page_stands_in_a_table():
    lines = (ROOT / "docs" / "performance.md").read_text().splitlines()
    ratio = re.compile(r"(?<![\d.])\d+\.\d\d(?![\d.])")
    in_prose = {number for line in lines if line[:1] != "|" for number in ratio.findall(line)}
    in_tables = {number for line in lines if line[:1] == "|" for number in ratio.findall(line)}
    assert in_prose
    assert in_prose <= in_tables


def test_a_stale_table_is_found_and_then_written(checkout, monkeypatch, capsys):
    path = checkout / "benchmarks" / "results" / "step_time.json"
    report = json.loads(path.read_text())
    for row in report["results"]:
        if (row["dtype"], row["weight_decay"], row["contender"]) == ("bfloat16", 0.0, "optax"):
            row["median_ms"] = 98765.4
    path.write_text(json.dumps(report))
    document = checkout / "docs" / "performance.md"
    before = document.read_text()

    assert run(monkeypatch, "--check") == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("docs/performance.md: table step_time_bfloat16 is stale")
    assert document.read_text() == before

    assert run(monkeypatch) == 0
    assert "98765.4" in document.read_text()
    assert run(monkeypatch, "--check") == 0


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (f"<!-- table memroy -->\n{END}\n", "table memroy is unknown: there are .*memory"),
        (f"{BEGIN}\n", "table memory must be closed"),
        (f"{BEGIN}\n{BEGIN}\n{END}\n", "table memory must be closed .*, got 0"),
        (f"{BEGIN}\n{END}\n<!-- tabel speed -->\n{END}\n", "table memory must be closed .*, got 2"),
        (f"{END}\n", f"'{END}' before any"),
    ],
    ids=["unknown", "unclosed", "unclosed before another", "closed twice", "closed before begun"],
)
def test_a_region_that_cannot_be_filled_in_is_named(checkout, monkeypatch, region, message):
    (checkout / "docs" / "other.md").write_text(f"Words.\n\n{region}")
    found = run(monkeypatch)
    assert re.match(f"docs/other.md: {message}", found)
