"""One run of an optimizer over given gradients, by torch and by this package, in one form."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

import adadelta_jax

torch = pytest.importorskip("torch")

NUMPY_DTYPES = {
    "float64": np.float64,
    "float32": np.float32,
    "bfloat16": ml_dtypes.bfloat16,
    "float16": np.float16,
    "complex128": np.complex128,
    "complex64": np.complex64,
}
SHAPES = {"one": (1,), "vector": (7,), "matrix": (5, 3), "empty": (0, 3), "zero_dimensional": ()}


class Snapshot(NamedTuple):
    """Parameters and accumulators after a step: dicts of double-precision arrays."""

    params: dict
    square_avg: dict
    acc_delta: dict


def draw(dtype, steps, shapes=SHAPES, seed=0):
    """Parameters near 0, and gradients for some steps, as NumPy arrays of `dtype`.

    Every coordinate has a scale of its own, from 1 to 10. A tenth of the gradients are 0, and the
    others at least half the scale: more than weight decay can add to them, so that g + λθ never
    cancels, and a relative tolerance is fair.
    """
    random = np.random.default_rng(seed)
    is_complex = dtype.startswith("complex")

    def real(shape, scale):
        values = scale * random.uniform(0.5, 2.0, shape) * random.choice([-1.0, 1.0], shape)
        return np.where(random.random(shape) < 0.1, 0.0, values)

    def leaf(shape, scale):
        values = real(shape, scale) + (1j * real(shape, scale) if is_complex else 0)
        return np.asarray(values).astype(NUMPY_DTYPES[dtype])

    scales = {name: 10 ** random.uniform(0, 1, shape) for name, shape in shapes.items()}
    params = {name: leaf(shape, 0.1) for name, shape in shapes.items()}
    gradients = [
        {name: leaf(shape, scales[name]) for name, shape in shapes.items()} for _ in range(steps)
    ]
    return params, gradients


def run_torch(params, gradients, dtype, foreach, schedule=None, checkpoints=None, **options):
    """The snapshots of `torch.optim.Adadelta` after the steps `checkpoints` (None: after every).

    The values are cast to `dtype` first; a gradient may be None. `schedule` maps the optimizer to
    a function that is called after each step.
    """
    tensors = {name: to_tensor(param, dtype) for name, param in params.items()}
    optimizer = torch.optim.Adadelta(tensors.values(), foreach=foreach, **options)
    after_step = schedule(optimizer) if schedule else lambda: None

    def state(name):
        # torch makes the state of a parameter at its first gradient, of zeros.
        return {
            key: optimizer.state[tensor].get(name, torch.zeros_like(tensor))
            for key, tensor in tensors.items()
        }

    snapshots = {}
    for step, grads in enumerate(gradients, start=1):
        for name, tensor in tensors.items():
            tensor.grad = None if grads[name] is None else to_tensor(grads[name], dtype)
        optimizer.step()
        after_step()
        if checkpoints is None or step in checkpoints:
            parts = (tensors, state("square_avg"), state("acc_delta"))
            snapshots[step] = Snapshot(
                *({name: to_double(tensor) for name, tensor in part.items()} for part in parts)
            )
    return snapshots


def run_jax(params, gradients, dtype, checkpoints=None, **options):
    """The snapshots of `adadelta_jax.adadelta`, jitted, after the steps `checkpoints`."""
    with jax.enable_x64(dtype in ("float64", "complex128")):
        optimizer = adadelta_jax.adadelta(**options)

        @jax.jit
        def step_once(params, state, grads):
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        params = jax.tree.map(jnp.asarray, params)
        state = optimizer.init(params)
        snapshots = {}
        for step, grads in enumerate(gradients, start=1):
            params, state = step_once(params, state, grads)
            if checkpoints is None or step in checkpoints:
                parts = (
                    params,
                    optax.tree.get(state, "square_avg"),
                    optax.tree.get(state, "acc_delta"),
                )
                snapshots[step] = Snapshot(*(jax.tree.map(to_double, part) for part in parts))
    return snapshots


def to_tensor(array, dtype):
    # torch cannot read NumPy's bfloat16; every half-precision number is one of double precision.
    return torch.tensor(to_double(array)).to(getattr(torch, dtype))


def to_double(array):
    """A copy in float64 or complex128, because torch overwrites its tensors at the next step."""
    if isinstance(array, torch.Tensor):
        array = array.to(torch.complex128 if array.is_complex() else torch.float64).numpy()
    array = np.asarray(array)
    return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)
