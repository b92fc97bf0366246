"""Adadelta for JAX, as Optax gradient transformations."""

from adadelta_jax import diagnostics, sharding, torch_interop
from adadelta_jax._hooks import with_step_hooks
from adadelta_jax._core.optimizer import adadelta
from adadelta_jax._groups import carry_over_state, label_by_path, param_groups
from adadelta_jax._core.transform import ScaleByAdadeltaState, scale_by_adadelta

__all__ = [
    "ScaleByAdadeltaState",
    "adadelta",
    "carry_over_state",
    "diagnostics",
    "label_by_path",
    "param_groups",
    "scale_by_adadelta",
    "sharding",
    "torch_interop",
    "with_step_hooks",
]
