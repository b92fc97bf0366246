"""Checkpoints in files, as users write and read them."""

import json
import pickle
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import equinox
import flax.serialization
import jax
import numpy as np
import optax
import orbax.checkpoint
import safetensors
import safetensors.numpy
from jax.sharding import SingleDeviceSharding

from adadelta_jax import torch_interop
from tests.golden.cases import TORCH_GROUPS, Checkpoint, torch_mapping

FOLDER = Path(__file__).parent
VERSIONS = sorted(path for path in FOLDER.iterdir() if path.name[0].isdigit())


class Format(NamedTuple):
    """How a file is written, and read into the structure of a given checkpoint."""

    write: Callable[[Path, Checkpoint], object]
    read: Callable[[Path, Checkpoint], Checkpoint]


def _write_msgpack(path, checkpoint):
    path.write_bytes(flax.serialization.to_bytes(checkpoint))


def _read_msgpack(path, like):
    return flax.serialization.from_bytes(like, path.read_bytes())


def _write_pickle(path, checkpoint):
    # As NumPy arrays: a pickled JAX array names private functions of JAX.
    path.write_bytes(pickle.dumps(jax.device_get(checkpoint)))


def _read_pickle(path, _):
    return pickle.loads(path.read_bytes())


def _write_orbax(path, checkpoint):
    """Orbax's folder of small files, zipped."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent).resolve() / "checkpoint"
        with orbax.checkpoint.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder, checkpoint)
        (folder / "commit_success.txt").unlink()  # names the folder, and is not read
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(file for file in folder.rglob("*") if file.is_file()):
                entry = zipfile.ZipInfo(str(file.relative_to(folder)))  # dated 1980, always
                archive.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED)


def _read_orbax(path, like):
    one_device = SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=one_device), like
    )
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent).resolve() / "checkpoint"
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
        with orbax.checkpoint.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(folder, target)


def _read_equinox(path, like):
    return equinox.tree_deserialise_leaves(path, like)


FORMATS = {
    "msgpack": Format(_write_msgpack, _read_msgpack),
    "pickle": Format(_write_pickle, _read_pickle),
    "eqx": Format(equinox.tree_serialise_leaves, _read_equinox),
    "orbax.zip": Format(_write_orbax, _read_orbax),
}

# Orbax's files are the largest, and are kept of a few cases.
CASES_OF = {"orbax.zip": ("float32", "bfloat16", "uint8", "groups")}


def write_safetensors(path: Path, checkpoint: Checkpoint) -> None:
    """The run in torch's terms: weights, and the optimizer's state_dict by its flattened keys."""
    mapping = torch_mapping()
    tensors = torch_interop.params_to_torch(checkpoint["params"], mapping)
    state_dict = torch_interop.optimizer_to_torch(
        checkpoint["state"], checkpoint["params"], mapping, TORCH_GROUPS
    )
    for id_, fields in state_dict["state"].items():
        tensors |= {f"state.{id_}.{field}": tensor for field, tensor in fields.items()}
    # NumPy arrays, also where the process has imported torch.
    arrays = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    groups = json.dumps(state_dict["param_groups"])
    safetensors.numpy.save_file(arrays, path, metadata={"param_groups": groups})


def read_safetensors(
    path: Path, params: optax.Params
) -> tuple[optax.GradientTransformation, Checkpoint]:
    """The optimizer with the settings of the file, and the run in this package's terms."""
    arrays = safetensors.numpy.load_file(path)
    with safetensors.safe_open(path, framework="numpy") as file:
        groups = json.loads(file.metadata()["param_groups"])
    state = {}
    for key in [key for key in arrays if key.startswith("state.")]:
        _, id_, field = key.split(".")
        state.setdefault(int(id_), {})[field] = arrays.pop(key)
    mapping = torch_mapping()
    params = torch_interop.params_from_torch(arrays, params, mapping)
    optimizer, state = torch_interop.optimizer_from_torch(
        {"state": state, "param_groups": groups}, params, mapping
    )
    return optimizer, {"params": params, "state": state}
