"""Checkpoints that each version wrote are read by today's code, and their runs go on."""

import contextlib
import functools
import itertools
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adadelta_jax
from adadelta_jax import adadelta, carry_over_state
from tests.golden.cases import CASES, nnx_objects, params_of, train
from tests.golden.comparison import assert_same_run, assert_same_structure
from tests.golden.files import FOLDER, FORMATS, VERSIONS, read_safetensors
from tests.golden.make_states import write

FILES = [path for version in VERSIONS for path in sorted(version.iterdir()) if path.is_file()]
TORCH_FILES = [path for path in FILES if path.suffix == ".safetensors"]
OPTAX_FILES = [path for path in FILES if path not in TORCH_FILES]
MSGPACKS = [path for path in FILES if path.suffix == ".msgpack"]
PICKLES = [path for path in FILES if path.suffix == ".pickle"]
NNX_FILES = [path for path in OPTAX_FILES if path.name.startswith("nnx.")]


def name_of(path):
    return str(path.relative_to(FOLDER))


def case_of(path):
    return path.name.split(".")[0]


def over(paths):
    return pytest.mark.parametrize("path", paths, ids=name_of)


@functools.cache
def start(case):
    return CASES[case].start()


def read(path):
    case, suffix = path.name.split(".", 1)
    return FORMATS[suffix].read(path, start(case))


def read_after(path):
    """The stored end of a file's run."""
    return read(path.parent / "after" / f"{case_of(path)}.msgpack")


@over(OPTAX_FILES)
def test_a_stored_state_has_the_structure_of_one_that_init_makes(path):
    checkpoint = read(path)
    assert_same_structure(checkpoint, start(case_of(path)))
    chex.assert_trees_all_equal(checkpoint, read(path.with_name(f"{case_of(path)}.msgpack")))


@over(OPTAX_FILES)
def test_a_run_goes_on_from_a_stored_state_to_its_stored_end(path):
    checkpoint = read(path)
    assert_same_run(CASES[case_of(path)].train(checkpoint), read_after(path), checkpoint)


@over(TORCH_FILES)
def test_a_run_goes_on_from_stored_torch_tensors_with_the_settings_beside_them(path):
    optimizer, checkpoint = read_safetensors(path, params_of(jnp.float32))
    assert_same_structure(checkpoint, start("torch"))
    chex.assert_trees_all_equal(checkpoint, read(path.with_suffix(".msgpack")))
    ended = train(jax.jit(optimizer.update), checkpoint)
    assert_same_run(ended, read_after(path), checkpoint)


@over(NNX_FILES)
def test_a_stored_state_of_nnx_carries_over_to_the_plain_optimizer(path):
    checkpoint, after = read(path), read_after(path)
    _, nnx_optimizer = nnx_objects(checkpoint)
    optimizer = adadelta()
    state = carry_over_state(optimizer, checkpoint["params"], nnx_optimizer.opt_state)
    ended = train(optimizer.update, {"params": checkpoint["params"], "state": state})
    index = [type(part) for part in state].index(adadelta_jax.ScaleByAdadeltaState)
    assert_same_run(
        {"params": ended["params"], "state": ended["state"][index]._asdict()},
        {"params": after["params"], "state": after["state"]["opt_state"][index]},
        {"params": checkpoint["params"], "state": checkpoint["state"]["opt_state"][index]},
    )


@over(MSGPACKS)
def test_a_stored_run_moves_every_parameter_that_is_not_frozen(path):
    runs = (start(case_of(path)), read(path), read_after(path))
    frozen = ("norm",) if case_of(path) == "groups" else ()
    for before, after in itertools.pairwise(run["params"] for run in runs):
        for name in before.keys() - frozen:
            moves = jax.tree.map(np.not_equal, before[name], after[name])
            assert all(leaf.all() for leaf in jax.tree.leaves(moves))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "uint8"])
@pytest.mark.parametrize("settings", [{"eps": 2e-6}, {"rho": 0.7}, {"learning_rate": 0.5}], ids=str)
def test_other_settings_do_not_reach_the_stored_end(settings, dtype):
    path = FOLDER / adadelta_jax.__version__ / f"{dtype}.msgpack"
    checkpoint = read(path)
    optimizer = adadelta(**settings, accumulator_dtype=dtype)
    with pytest.raises(AssertionError):
        assert_same_run(train(optimizer.update, checkpoint), read_after(path), checkpoint)


@pytest.mark.parametrize(("places", "is_same"), [(2, True), (3, False)])
def test_a_last_place_too_many_is_not_the_stored_run(places, is_same):
    stored = read(FOLDER / adadelta_jax.__version__ / "float32.msgpack")
    params = jax.tree.map(
        lambda param: (param.view(np.int32) + np.int32(places)).view(np.float32), stored["params"]
    )
    with contextlib.nullcontext() if is_same else pytest.raises(AssertionError):
        assert_same_run({**stored, "params": params}, stored, stored)


class NamesOfPickle(pickle.Unpickler):
    def __init__(self, file):
        super().__init__(file)
        self.names = set()

    def find_class(self, module, name):
        self.names.add((module, name))
        return super().find_class(module, name)


def names_in(path):
    """The classes and functions by which a pickle is read, as pairs of module and name."""
    with path.open("rb") as file:
        unpickler = NamesOfPickle(file)
        unpickler.load()
    return unpickler.names


def assert_names_are_public(path):
    ours = {names for names in names_in(path) if names[0].startswith("adadelta_jax")}
    is_of_dicts = case_of(path) == "nnx"
    assert ours == (set() if is_of_dicts else {("adadelta_jax", "ScaleByAdadeltaState")})


@over(PICKLES)
def test_a_stored_pickle_depends_on_public_names_and_on_those_of_optax(path):
    assert_names_are_public(path)
    packages = {module.split(".")[0] for module, _ in names_in(path)}
    assert packages <= {"adadelta_jax", "optax", "numpy", "ml_dtypes"}


@pytest.fixture(scope="module")
def written_today(tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden") / adadelta_jax.__version__
    write(folder)
    return folder


def test_todays_code_writes_what_is_stored_of_this_version(written_today):
    stored = FOLDER / adadelta_jax.__version__
    names = {str(path.relative_to(stored)) for path in stored.rglob("*.*")}
    assert {str(path.relative_to(written_today)) for path in written_today.rglob("*.*")} == names
    for path in (path for path in written_today.rglob("*.*") if path.suffix != ".safetensors"):
        twin = stored / path.relative_to(written_today)
        begin = start(case_of(path))
        earlier = read(stored / path.name) if path.parent.name == "after" else begin
        assert_same_run(read(path), read(twin), earlier)


def test_todays_code_writes_the_stored_torch_tensors(written_today):
    name = "torch.safetensors"
    params = params_of(jnp.float32)
    _, today = read_safetensors(written_today / name, params)
    _, stored = read_safetensors(FOLDER / adadelta_jax.__version__ / name, params)
    assert_same_run(today, stored, start("torch"))


def test_the_files_of_a_version_are_small():
    for version in VERSIONS:
        assert sum(path.stat().st_size for path in version.rglob("*.*")) < 100_000


def test_todays_pickles_depend_on_public_names(written_today):
    for path in written_today.glob("*.pickle"):
        assert_names_are_public(path)
