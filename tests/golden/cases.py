"""The runs whose checkpoints are kept: optimizers in the ways of use that change the state.

A case never changes, because files of earlier versions hold its runs. A new one gets a new name.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from adadelta_jax import adadelta, label_by_path, param_groups, scale_by_adadelta, torch_interop

STEPS = 3  # before a checkpoint, and after it

PARAMS = {
    "dense": {
        "bias": [0.05, -0.3, 1.2],
        "kernel": [[0.5, -1.25, 2.0], [1.5, -0.1, 0.75]],
    },
    "norm": {"scale": [1.0, -3.0, 0.25]},
}

# The same parameters in torch, in two groups.
TORCH_NAMES = {"dense.weight": (3, 2), "dense.bias": (3,), "norm.weight": (3,)}
TORCH_GROUPS = [
    {
        "params": [0],
        "param_names": ["dense.weight"],
        "lr": 0.5,
        "rho": 0.95,
        "eps": 1e-6,
        "weight_decay": 0.01,
        "maximize": False,
    },
    {
        "params": [1, 2],
        "param_names": ["dense.bias", "norm.weight"],
        "lr": 1.0,
        "rho": 0.9,
        "eps": 1e-6,
        "weight_decay": 0.0,
        "maximize": False,
    },
]

Checkpoint = dict[str, Any]  # "params" and "state"


class Case(NamedTuple):
    """One run: its first parameters and state, and how it goes on from any others."""

    start: Callable[[], Checkpoint]
    train: Callable[[Checkpoint], Checkpoint]  # STEPS further


def gradients(params):
    """Those of |params|² / 20: one rounding per number, whatever the compiler fuses."""
    return jax.tree.map(lambda param: param / 10, params)


def train(update: optax.TransformUpdateExtraArgsFn, checkpoint: Checkpoint) -> Checkpoint:
    """`STEPS` steps by the `update` of an optimizer."""
    params, state = jax.tree.map(jnp.asarray, (checkpoint["params"], checkpoint["state"]))
    for _ in range(STEPS):
        updates, state = update(gradients(params), state, params)
        params = optax.apply_updates(params, updates)
    return {"params": params, "state": state}


def params_of(dtype) -> Any:
    """`PARAMS` as arrays."""
    return jax.tree.map(
        lambda numbers: jnp.asarray(numbers, dtype), PARAMS, is_leaf=lambda x: isinstance(x, list)
    )


def _optax_case(make_optimizer, dtype=jnp.float32, rotation=1.0) -> Case:
    @functools.cache
    def compiled_update():
        return jax.jit(make_optimizer().update)

    def start():
        params = jax.tree.map(lambda param: param * rotation, params_of(dtype))
        return {"params": params, "state": make_optimizer().init(params)}

    return Case(start, lambda checkpoint: train(compiled_update(), checkpoint))


class _Network(nnx.Module):
    def __init__(self):
        params = params_of(jnp.float32)
        self.bias = nnx.Param(params["dense"]["bias"])
        self.kernel = nnx.Param(params["dense"]["kernel"])


def nnx_objects(checkpoint: Checkpoint | None = None) -> tuple[nnx.Module, nnx.Optimizer]:
    """A network and its optimizer, from a checkpoint if there is one."""
    network = _Network()
    optimizer = nnx.Optimizer(network, adadelta(), wrt=nnx.Param)
    if checkpoint is not None:
        for node, name in ((network, "params"), (optimizer, "state")):
            variables = nnx.state(node)
            nnx.replace_by_pure_dict(variables, jax.tree.map(jnp.asarray, checkpoint[name]))
            nnx.update(node, variables)
    return network, optimizer


def _nnx_checkpoint(network, optimizer) -> Checkpoint:
    """Of dicts and arrays alone, as Flax's guide to checkpoints saves them."""
    return {
        "params": nnx.to_pure_dict(nnx.state(network)),
        "state": nnx.to_pure_dict(nnx.state(optimizer)),
    }


def _train_nnx(checkpoint: Checkpoint) -> Checkpoint:
    network, optimizer = nnx_objects(checkpoint)
    for _ in range(STEPS):
        optimizer.update(network, gradients(nnx.state(network, nnx.Param)))
    return _nnx_checkpoint(network, optimizer)


def _with_accumulators(dtype) -> Case:
    return _optax_case(lambda: adadelta(accumulator_dtype=dtype))


def _groups():
    return param_groups(
        {
            "slow": {"learning_rate": 0.25, "rho": 0.95, "weight_decay": 0.01},
            "biases": {"eps": 1e-8},
            "frozen": None,
        },
        label_by_path({"bias$": "biases", "^norm/": "frozen"}, default="slow"),
    )


def _chain():
    return optax.chain(
        optax.clip_by_global_norm(0.25),
        optax.add_decayed_weights(0.01),
        scale_by_adadelta(rho=0.95),
        optax.scale_by_learning_rate(0.5),
    )


def _kernels(params):
    return jax.tree.map(lambda param: param.ndim > 1, params)


def torch_mapping():
    """Which tensor of `TORCH_NAMES` is which parameter."""
    return torch_interop.match_flax_params(TORCH_NAMES, params_of(jnp.float32))


def _from_torch():
    unstarted = {"state": {}, "param_groups": TORCH_GROUPS}
    params = params_of(jnp.float32)
    return torch_interop.optimizer_from_torch(unstarted, params, torch_mapping())[0]


def _halving(first):
    """A schedule that falls before the checkpoint and after it."""
    return optax.piecewise_constant_schedule(first, {2: 0.5, 4: 0.5})


CASES = {
    "float32": _optax_case(adadelta),
    "bfloat16": _with_accumulators("bfloat16"),
    "float16": _with_accumulators("float16"),
    "uint8": _with_accumulators("uint8"),
    # A larger ε, so that a step is more than the spacing of the parameters.
    "bfloat16_params": _optax_case(lambda: adadelta(eps=1e-4), jnp.bfloat16),
    "complex64": _optax_case(adadelta, jnp.complex64, rotation=0.75 + 0.5j),
    "groups": _optax_case(_groups),
    "injected": _optax_case(
        lambda: optax.inject_hyperparams(adadelta)(learning_rate=0.5, rho=0.95)
    ),
    "schedule": _optax_case(lambda: adadelta(_halving(1.0), maximize=True)),
    "chain": _optax_case(_chain),
    "masked": _optax_case(lambda: optax.masked(adadelta(), _kernels)),
    "multi_steps": _optax_case(lambda: optax.MultiSteps(adadelta(), every_k_schedule=2)),
    "decay_mask": _optax_case(lambda: adadelta(weight_decay=0.01, weight_decay_mask=_kernels)),
    "decoupled_decay": _optax_case(
        lambda: adadelta(weight_decay=_halving(0.1), decoupled_weight_decay=True)
    ),
    "nnx": Case(lambda: _nnx_checkpoint(*nnx_objects()), _train_nnx),
    "torch": _optax_case(_from_torch),
}
