"""What stands around the code agrees with it: citation, policies, and the forms of an issue."""

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
import yaml

import adadelta_jax
from tests.golden import comparison

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
VERSIONS = (ROOT / "docs" / "versions.md").read_text()
FORMS = sorted(
    path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").iterdir() if path.name != "config.yml"
)
SOURCES = sorted((ROOT / "adadelta_jax").rglob("*.py"))


def rows(page, header):
    """The cells of the table of a page whose first row has these."""
    lines = page.splitlines()
    first = lines.index(f"| {' | '.join(header)} |".replace("|  |", "| |")) + 2
    ends = next(i for i in range(first, len(lines)) if not lines[i].startswith("|"))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[first:ends]]


def test_the_citation_has_what_its_format_requires():
    assert CITATION["cff-version"] == "1.2.0"
    for key in ("message", "title"):
        assert isinstance(CITATION[key], str)
    for work in (CITATION, *CITATION["references"]):
        for author in work["authors"]:
            assert author.keys() in ({"name"}, {"family-names", "given-names"})


def test_the_citation_is_of_this_version_and_license():
    assert CITATION["version"] == adadelta_jax.__version__
    assert CITATION["title"] == PROJECT["name"]
    assert CITATION["license"] == PROJECT["license"]


def test_the_citation_names_the_paper_that_the_docstrings_name():
    (paper,) = CITATION["references"]
    assert paper["url"] in adadelta_jax.adadelta.__doc__
    assert paper["url"].endswith(paper["identifiers"][0]["value"].removeprefix("arXiv:"))
    assert (
        f"{paper['authors'][0]['family-names']} ({paper['year']})" in adadelta_jax.adadelta.__doc__
    )


def test_a_citation_in_the_readme_is_of_this_version():
    readme = (ROOT / "README.md").read_text()
    versions = re.findall(r"^\s*version\s*=\s*\{(.+?)\}", readme, re.MULTILINE)
    assert versions == [adadelta_jax.__version__]
    assert CITATION["authors"][0]["name"] in readme


def test_the_page_on_versions_has_the_lowest_ones_that_install():
    lowest = {name: first for name, first, _ in rows(VERSIONS, ["", "from", "to"])}
    bounds = dict(each.split(">=") for each in PROJECT["dependencies"])
    assert lowest["Python"] == PROJECT["requires-python"].removeprefix(">=")
    assert lowest["JAX, jaxlib"] == bounds["jax"] == bounds["jaxlib"]
    assert lowest["Optax"] == bounds["optax"]
    assert lowest["chex"] == bounds["chex"]
    assert bounds.keys() == {"jax", "jaxlib", "optax", "chex"}


def test_the_page_on_versions_has_the_pythons_that_the_package_names():
    (python,) = (row for row in rows(VERSIONS, ["", "from", "to"]) if row[0] == "Python")
    named = [each.rsplit(" ")[-1] for each in PROJECT["classifiers"] if "Python :: 3" in each]
    assert python[1:] == [named[0], named[-1]]
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert workflow["jobs"]["all"]["strategy"]["matrix"]["python"] == named
    assert f"on Python {', '.join(named[:-1])} and {named[-1]}" in VERSIONS


def test_the_nightly_workflow_runs_what_the_page_on_versions_says():
    workflow = yaml.safe_load((ROOT / ".github/workflows/nightly.yml").read_text())
    matrix = workflow["jobs"]["make"]["strategy"]["matrix"]["include"]
    runs = {(each["target"], each["python"]) for each in matrix}
    header = ["command", "runs", "in the nightly workflow, on Python"]
    for command, _, pythons in rows(VERSIONS, header):
        target = command.strip("`").removeprefix("make ")
        assert {(target, python) for python in pythons.split(" and ")} <= runs


def test_the_page_on_versions_has_the_tolerance_of_the_tests():
    allowed = dict(rows(VERSIONS, ["", "may differ by"]))
    of_params, of_state = comparison.PLACES["params"], comparison.PLACES["state"]
    assert allowed["parameters in float32"].startswith(f"{of_params['float32']} ")
    assert allowed["v and u in float32"].startswith(f"{of_state['float32']} ")
    in_few_bits = "v and u in bfloat16, float16 and 8 bits; parameters in bfloat16"
    assert set(comparison.FEWER_BITS.values()) == {int(allowed[in_few_bits].split()[0])}
    shares = allowed["float32 parameters beside v and u in fewer bits"]
    assert shares.startswith(f"{of_params['float32']} ")
    for dtype, spacing in comparison.SPACING.items():
        assert f"1/{round(1 / spacing)} for {dtype.replace('uint8', '8 bits')}" in shares


HARMLESS_IMPORTS = {"jax", "numpy", "optax", "chex", "adadelta_jax", "typing", "collections"}
HARMLESS_IMPORTS |= {"math", "itertools", "warnings", "re", "contextlib", "numbers", "functools"}
HARMLESS_IMPORTS |= {"sys", "operator", "inspect"}
DANGEROUS_CALLS = {"open", "eval", "exec", "__import__", "import_module", "load", "loads"}
DANGEROUS_CALLS |= {"load_file", "fromfile", "tofile", "memmap", "save", "savez", "dump"}
HARMLESS_CALLS = {"formats.load"}  # an accumulator


def dangers(source):
    """What a file imports or calls that could read a file, run one, or reach a network."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        else:
            imported = [node.module] if isinstance(node, ast.ImportFrom) else []
        for name in imported:
            if name.split(".")[0] not in HARMLESS_IMPORTS or name.startswith("jax.experimental"):
                yield name
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called.split(".")[-1] in DANGEROUS_CALLS and called not in HARMLESS_CALLS:
                yield called


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_of_the_package_reads_no_file_starts_nothing_and_unpickles_nothing(path):
    assert list(dangers(path.read_text())) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from os import path",
        "import urllib.request",
        "import torch",
        "open('checkpoint')",
        "numpy.load('checkpoint')",
        "sys.modules['torch'].load('checkpoint')",
        "eval('1')",
    ],
)
def test_the_search_for_dangers_finds_one(source):
    assert len(list(dangers(source))) == 1


def fields(form):
    return [field for field in form["body"] if field["type"] != "markdown"]


def form_of(name):
    return yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml").read_text())


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_a_form_has_what_its_format_requires(path):
    form = yaml.safe_load(path.read_text())
    assert form.keys() == {"name", "description", "labels", "body"}
    ids = [field["id"] for field in fields(form)]
    assert len(set(ids)) == len(ids)
    assert any(field.get("validations", {}).get("required") for field in fields(form))
    for field in form["body"]:
        assert field.keys() <= {"type", "id", "attributes", "validations"}
        known = {
            "markdown": {"value"},
            "textarea": {"label", "description", "render", "value"},
            "dropdown": {"label", "options"},
        }
        attributes = field["attributes"]
        assert attributes.keys() <= known[field["type"]]
        assert field["type"] == "markdown" or attributes["label"]
        options = attributes.get("options", [])
        assert all(isinstance(option, str) for option in options)
        assert len(set(options)) == len(options)


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("bug_report", {"what", "reproduction", "versions"}),
        ("checkpoint_migration", {"direction", "old_names", "new_names", "versions"}),
        ("feature_request", {"situation", "code"}),
    ],
)
def test_a_form_asks_for_what_an_answer_needs(name, ids):
    required = {
        field["id"]
        for field in fields(form_of(name))
        if field.get("validations", {}).get("required")
    }
    assert ids <= required


def attributes_of(form, id_):
    (field,) = (field for field in fields(form_of(form)) if field["id"] == id_)
    return field["attributes"]


def code_in(description):
    (code,) = re.findall(r"`([^`]+)`$", description, re.MULTILINE)
    return code


def test_the_command_of_the_bug_report_prints_the_versions():
    program, *arguments = shlex.split(
        code_in(attributes_of("bug_report", "versions")["description"])
    )
    assert program == "python"
    result = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=True
    )
    assert f"adadelta_jax {adadelta_jax.__version__}\njax {jax.__version__}\n" in result.stdout


def test_the_code_of_the_bug_report_runs():
    exec(compile(attributes_of("bug_report", "reproduction")["value"], "bug report", "exec"), {})


def test_the_code_of_the_migration_form_prints_names_and_shapes(capsys):
    class Model:
        def state_dict(self):
            return {"fc.weight": jnp.ones((3, 2))}

    names = {"model": Model(), "params": {"fc": {"kernel": jnp.ones((2, 3))}}, "jax": jax}
    for id_ in ("old_names", "new_names"):
        exec(code_in(attributes_of("checkpoint_migration", id_)["description"]), names)
    printed = capsys.readouterr().out
    assert printed == "fc.weight (3, 2) float32\n['fc']['kernel'] (2, 3) float32\n"
