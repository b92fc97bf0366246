"""That what the documents show runs, and that every public name is documented."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import adadelta_jax

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_python_blocks_of_a_document_run_in_order(document, tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE)
    script = "\n".join(blocks)
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_within_the_project_leads_somewhere(document):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text()):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), target


PUBLIC = [
    documented
    for module in (adadelta_jax, adadelta_jax.torch_interop)
    for documented in (getattr(module, name) for name in module.__all__)
    if not inspect.ismodule(documented)
]


@pytest.mark.parametrize("documented", PUBLIC, ids=lambda documented: documented.__name__)
def test_a_public_name_is_documented_with_an_example(documented):
    text = inspect.getdoc(documented)
    if inspect.isclass(documented):
        assert all(f"{field}: " in text for field in documented._fields)
        return
    for section in ("Args:", "Returns:", "Raises:", "Example:", "Source:"):
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
