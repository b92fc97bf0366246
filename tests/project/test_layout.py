"""How the package is laid out: what imports what, and where users find what is public."""

import ast
import pickle
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest

import adadelta_jax
from adadelta_jax import diagnostics, sharding, torch_interop
from adadelta_jax._carry_over import UNEXPORTED_STEP_COUNTS

PACKAGE = Path(adadelta_jax.__file__).parent

# Every file of the package, from the ground up. A file imports only files above it in this list.
ORDER = [
    *("_storage/hash_bits", "_storage/rounding", "_storage/float8", "_storage/formats"),
    *("_checks/trees", "_checks/settings", "_checks/states", "_checks/step"),
    *("_checks/groups", "_checks/shardings"),
    *("_core/rule", "_core/in_place", "_core/transform", "_core/optimizer"),
    *("_groups", "_carry_over", "_hooks", "sharding", "diagnostics"),
    *("torch_interop/checks", "torch_interop/layouts"),
    *("torch_interop/tensors", "torch_interop/checkpoint_files"),
    *("torch_interop/assembly", "torch_interop/mapping", "torch_interop/prefixes"),
    *("torch_interop/kinds", "torch_interop/source", "torch_interop/targets"),
    *("torch_interop/pairing", "torch_interop/flattening"),
    *("torch_interop/matching", "torch_interop/names"),
    *("torch_interop/comparison", "torch_interop/weights"),
    *("torch_interop/settings", "torch_interop/groups", "torch_interop/state"),
    *("torch_interop/schedules", "torch_interop/optimizer"),
    *("torch_interop/__init__", "__init__"),
]


def imported_files(source):
    """The files of the package that the code of one of its files imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert node.module is not None
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
            modules.append(node.module)
        else:
            assert not isinstance(node, ast.ImportFrom), "imports are absolute"
            continue
        for module in modules:
            name = module.removeprefix("adadelta_jax").removeprefix(".").replace(".", "/")
            if module.startswith("adadelta_jax") and name in ORDER:
                yield name
            elif module.startswith("adadelta_jax") and f"{name}/__init__" in ORDER:
                yield f"{name}/__init__"


def names_of_files():
    names = {str(path.relative_to(PACKAGE).with_suffix("")) for path in PACKAGE.rglob("*.py")}
    faces = {f"{folder}/__init__" for folder in ("_checks", "_core", "_storage")}
    return names - faces, faces


def test_every_file_has_a_place_in_the_order():
    assert names_of_files()[0] == set(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_a_file_imports_only_files_below_it(name):
    imported = set(imported_files((PACKAGE / f"{name}.py").read_text()))
    assert imported <= set(ORDER[: ORDER.index(name)])


def test_the_search_for_imports_finds_every_form():
    source = (
        "import adadelta_jax._core.rule\n"
        "from adadelta_jax._storage import formats, float8\n"
        "from adadelta_jax._checks.step import check_step\n"
        "from adadelta_jax import torch_interop\n"
        "def late():\n    from adadelta_jax.sharding import bytes_per_device\n"
    )
    assert set(imported_files(source)) == {
        *("_core/rule", "_storage/formats", "_storage/float8", "_checks/step", "sharding"),
        "torch_interop/__init__",
    }


@pytest.mark.parametrize("name", sorted(names_of_files()[1]))
def test_a_folder_says_in_a_few_lines_what_lives_there(name):
    module = ast.parse((PACKAGE / f"{name}.py").read_text())
    docstring = ast.get_docstring(module)
    assert docstring is not None
    assert len(module.body) == 1
    assert 3 <= len(docstring.splitlines()) <= 6


@pytest.mark.parametrize("module", [adadelta_jax, torch_interop], ids=lambda m: m.__name__)
def test_public_objects_say_where_users_find_them(module):
    for name in module.__all__:
        public = getattr(module, name)
        if callable(public):
            assert public.__module__ == module.__name__


@pytest.mark.parametrize("module", [diagnostics, sharding], ids=lambda m: m.__name__)
def test_public_modules_define_what_they_offer(module):
    public = {n for n, value in vars(module).items() if callable(value) and not n.startswith("_")}
    defined = {
        node.name
        for node in ast.parse(Path(module.__file__).read_text()).body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
    }
    assert {n for n in public if getattr(module, n).__module__ == module.__name__} == {
        name for name in defined if not name.startswith("_")
    }


def test_a_pickled_state_names_only_public_places():
    state = adadelta_jax.adadelta().init({"kernel": jnp.ones(3)})
    assert repr(jax.tree.map(lambda _: 0, state[2])).startswith("ScaleByAdadeltaState(count=0, ")
    pickled = pickle.dumps(jax.device_get(state))
    assert b"adadelta_jax" in pickled
    assert b"_core" not in pickled.replace(b"numpy._core", b"")
    assert isinstance(pickle.loads(pickled)[2], adadelta_jax.ScaleByAdadeltaState)


def test_the_version_is_that_of_the_installed_package():
    assert adadelta_jax.__version__ == version("adadelta-jax")


def test_optax_still_has_the_states_that_go_by_their_names():
    schedule = optax.constant_schedule(0.1)
    decay = optax.add_decayed_weights(schedule).init(jnp.ones(1))
    injected = optax.inject_hyperparams(optax.sgd)(schedule).init(jnp.ones(1))
    states = (decay, *injected.hyperparams_states.values())
    assert {type(state).__name__ for state in states} == set(UNEXPORTED_STEP_COUNTS)
    for state in states:
        assert UNEXPORTED_STEP_COUNTS[type(state).__name__] in state._fields
