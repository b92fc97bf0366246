"""That what the documents show runs, and that the site has every page and every public name."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import adadelta_jax

ROOT = Path(__file__).parents[2]
MKDOCS = ROOT / "mkdocs.yml"
PAGES = sorted((ROOT / "docs").glob("*.md"))
DOCUMENTS = [ROOT / "README.md", *PAGES]


def fenced(text, language):
    """What stands in the fenced blocks of that language that are not indented."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


NEED_TORCH = ("from_pytorch.md",)


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(path, marks=[pytest.mark.torch] if path.name in NEED_TORCH else [])
        for path in DOCUMENTS
    ],
    ids=lambda path: path.name,
)
def test_the_python_blocks_of_a_document_run_in_order_and_print_what_it_shows(document, tmp_path):
    text = document.read_text()
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(fenced(text, "python"))],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    printed = result.stdout
    for shown in fenced(text, "output"):
        assert shown in printed
        printed = printed.split(shown, 1)[1]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_document_has_no_python_but_in_blocks_that_are_run(document):
    text = document.read_text()
    fences = [line for line in text.splitlines() if "```" in line or "~~~" in line]
    assert set(fences[::2]) <= {"```python", "```console", "```output", "```math"}
    assert set(fences[1::2]) <= {"```"}
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert not re.search(r"^ *>>> |^(?: {4}|\t) *(?:import|from|def|\w+ =) ", prose, re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_within_the_project_leads_somewhere(document):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text()):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), target


def test_the_navigation_of_the_site_has_every_page():
    navigation = re.findall(r"^  - .+: (\S+\.md)$", MKDOCS.read_text(), re.MULTILINE)
    assert sorted(navigation) == [page.name for page in PAGES]


def public(module):
    """The functions and classes of a module that users are to know, by name."""
    if hasattr(module, "__all__"):
        members = {name: getattr(module, name) for name in module.__all__}
        return {name: each for name, each in members.items() if not inspect.ismodule(each)}
    return {
        name: each
        for name, each in vars(module).items()
        if not name.startswith("_") and getattr(each, "__module__", None) == module.__name__
    }


EXPORTS = [getattr(adadelta_jax, name) for name in adadelta_jax.__all__]
MODULES = [adadelta_jax, *filter(inspect.ismodule, EXPORTS)]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_public_name_is_on_the_page_of_the_api(module):
    shown = re.findall(r"^::: (\S+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert {f"{module.__name__}.{name}" for name in public(module)} <= set(shown)


PUBLIC = [documented for module in MODULES for documented in public(module).values()]


@pytest.mark.parametrize("documented", PUBLIC, ids=lambda documented: documented.__name__)
def test_a_public_name_is_documented_with_an_example(documented):
    text = inspect.getdoc(documented)
    if inspect.isclass(documented):
        assert all(f"{field}: " in text for field in documented._fields)
        return
    for section in ("Args:", "Returns:", "Raises:", "Examples:", "Source:"):
        assert section in text
    for parameter in inspect.signature(documented).parameters:
        assert f"{parameter}: " in text


def test_importing_the_package_imports_neither_torch_nor_flax():
    script = (
        "import sys, adadelta_jax\n"
        "print(sorted({'torch', 'flax', 'keras', 'sklearn'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout.strip() == "[]"
