"""One random problem and its settings, through torch.optim.Adadelta and through this package."""

import contextlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adadelta_jax
from tests.parity.tolerances import TOLERANCES, assert_snapshots_close
from tests.parity.trajectories import Snapshot, draw, to_double, to_tensor

torch = pytest.importorskip("torch")

SHAPES = ((), (7,), (5, 3), (2, 0, 3), (2, 1, 3, 2))
# The others run operation by operation: with nothing to compile, ten times faster.
JITTED_EVERY = 50


class Case(NamedTuple):
    """A random problem and its settings.

    Attributes:
        seed: All that follows comes from it.
        dtype: That of the parameters and gradients.
        jitted: Whether our step is compiled.
        shapes: That of each parameter, by name.
        groups: Torch's settings of each group; None: it is frozen.
        group_of: The group of each parameter, by name.
        missing: At each step, the names of the parameters whose gradient is None.
    """

    seed: int
    dtype: str
    jitted: bool
    shapes: Mapping[str, tuple[int, ...]]
    groups: Mapping[str, Mapping[str, Any] | None]
    group_of: Mapping[str, str]
    missing: tuple[frozenset[str], ...]


def draw_case(seed: int) -> Case:
    """The case of a seed."""
    random = np.random.default_rng([seed, 1])
    dtype = str(random.choice(list(TOLERANCES)))
    names = [f"p{i}" for i in range(random.integers(1, 6))]
    count = int(random.integers(1, min(len(names), 3) + 1))
    # Every group has a parameter: the first ones go round, the others anywhere.
    group_of = {
        name: str(i if i < count else random.integers(count)) for i, name in enumerate(names)
    }
    groups = {str(i): _draw_settings(random, dtype) for i in range(count)}
    if count > 1 and random.random() < 0.3:
        groups[str(random.integers(count))] = None
    return Case(
        seed=seed,
        dtype=dtype,
        jitted=seed % JITTED_EVERY == 0,
        shapes={name: SHAPES[random.integers(len(SHAPES))] for name in names},
        groups=groups,
        group_of=group_of,
        missing=tuple(
            frozenset(name for name in names if random.random() < 0.15)
            for _ in range(random.integers(1, 7))
        ),
    )


def _draw_settings(random: np.random.Generator, dtype: str) -> dict[str, Any]:
    """Settings with which rounding errors stay small relative to the values.

    With weight decay, ε is so small that parameters stay near their start, and g + λθ does not
    cancel (see `draw`). In float16, ε is at least 1e-4, so that u is not subnormal: tests/parity
    covers smaller ones.
    """
    smallest = 1e-4 if dtype == "float16" else 1e-12
    weight_decay = float(random.choice([0.0, 0.0, 0.1, random.uniform(0, 0.9)]))
    rho = float(random.choice([0.9, 0.95, 0.99, 0.0, 1.0, random.uniform(0, 0.99)]))
    largest = 1.0
    if weight_decay:
        largest = max(1e-6, smallest)
        weight_decay = min(weight_decay, 0.1) if dtype == "float16" else weight_decay
        rho = min(rho, 0.99)  # with 1, v and u stay zero, and Δ is all of the gradient
    eps = np.exp(random.uniform(np.log(smallest), np.log(largest)))
    return {
        "lr": float(random.choice([1.0, 0.01, 0.0, random.uniform(0, 2)])),
        "rho": rho,
        "eps": float(max(1e-6, smallest) if random.random() < 0.3 else eps),
        "weight_decay": weight_decay,
        "maximize": bool(random.random() < 0.3),
        "foreach": (None, False, True)[random.integers(3)],
    }


def draw_arrays(case: Case) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The parameters, and the gradients of every step, some of them None."""
    params, gradients = draw(case.dtype, len(case.missing), case.shapes, case.seed)
    for grads, missing in zip(gradients, case.missing, strict=True):
        for name, grad in grads.items():
            settings = case.groups[case.group_of[name]]
            if case.dtype == "float16" or (settings and settings["weight_decay"]):
                # Where g is zero, g + λθ is as inexact as a θ near zero, and u may become subnormal
                # in float16.
                grads[name] = _without_zeros(grad)
            if name in missing:
                grads[name] = None
    return params, gradients


def _without_zeros(array: np.ndarray) -> np.ndarray:
    one = array.dtype.type(1)
    if np.iscomplexobj(array):
        return _without_zeros(array.real) + 1j * _without_zeros(array.imag)
    return np.where(array == 0, one, array).astype(array.dtype)


def run_torch(case: Case, params: Any, gradients: Any) -> list[Snapshot]:
    """The snapshots of torch after every step."""
    tensors = {name: to_tensor(param, case.dtype) for name, param in params.items()}
    optimizer = torch.optim.Adadelta(
        [
            {"params": [tensors[name] for name in tensors if case.group_of[name] == group]}
            | settings
            for group, settings in case.groups.items()
            if settings is not None
        ]
    )

    def average(key):
        return {
            name: to_double(optimizer.state[tensor].get(key, torch.zeros_like(tensor)))
            for name, tensor in tensors.items()
            if case.groups[case.group_of[name]] is not None
        }

    snapshots = []
    for grads in gradients:
        for name, tensor in tensors.items():
            tensor.grad = None if grads[name] is None else to_tensor(grads[name], case.dtype)
        optimizer.step()
        values = {name: to_double(tensor) for name, tensor in tensors.items()}
        snapshots.append(Snapshot(values, average("square_avg"), average("acc_delta")))
    return snapshots


def run_jax(case: Case, params: Any, gradients: Any) -> list[Snapshot]:
    """The snapshots of this package after every step."""
    ours = {group: settings and _our_settings(settings) for group, settings in case.groups.items()}
    in_double = jax.enable_x64(case.dtype in ("float64", "complex128"))
    compiled = contextlib.nullcontext() if case.jitted else jax.disable_jit()
    with in_double, compiled:
        if len(ours) == 1:
            optimizer = adadelta_jax.adadelta(**ours["0"])
        else:
            optimizer = adadelta_jax.param_groups(ours, dict(case.group_of))
        step = jax.jit(optimizer.update)
        params = jax.tree.map(jnp.asarray, params)
        state = optimizer.init(params)
        snapshots = []
        for grads in gradients:
            updates, state = step(grads, state, params)
            params = optax.apply_updates(params, updates)
            snapshots.append(
                Snapshot(
                    jax.tree.map(to_double, params),
                    _accumulator(state, "square_avg"),
                    _accumulator(state, "acc_delta"),
                )
            )
        return snapshots


def _our_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    ours = {key: value for key, value in settings.items() if key != "foreach"}
    return {"learning_rate": ours.pop("lr")} | ours


def _accumulator(state: Any, key: str) -> dict[str, np.ndarray]:
    """An accumulator of all groups, by the names of their parameters."""
    return {
        name: to_double(value)
        for _, tree in optax.tree.get_all_with_path(state, key)
        for name, value in tree.items()
        if not isinstance(value, optax.MaskedNode)
    }


def assert_runs_close(case: Case, actual: list[Snapshot], expected: list[Snapshot]) -> None:
    """Raise unless two runs agree after every step, within the tolerance of their dtype."""
    largest = np.zeros(())
    for step, (ours, theirs) in enumerate(zip(actual, expected, strict=True), start=1):
        # The error of a parameter that returns to zero is relative to its largest value.
        largest = max(largest, *(np.max(np.abs(p), initial=0) for p in theirs.params.values()))
        ours, theirs = (
            snapshot._replace(params=snapshot.params | {"largest so far": largest})
            for snapshot in (ours, theirs)
        )
        assert_snapshots_close(ours, theirs, step, case.dtype)


def run_case(seed: int) -> str:
    """Raise, naming the settings, unless torch and this package agree. Returns how it ended."""
    case = draw_case(seed)
    params, gradients = draw_arrays(case)
    try:
        assert_runs_close(
            case, run_jax(case, params, gradients), run_torch(case, params, gradients)
        )
    except Exception as error:
        raise AssertionError(f"{case}\n{type(error).__name__}: {error}") from error
    return "agreed"
