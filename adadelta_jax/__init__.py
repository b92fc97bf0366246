"""Adadelta for JAX, as Optax gradient transformations."""

from adadelta_jax import diagnostics, sharding, torch_interop
from adadelta_jax._carry_over import carry_over_state
from adadelta_jax._core.optimizer import adadelta
from adadelta_jax._core.transform import ScaleByAdadeltaState, scale_by_adadelta
from adadelta_jax._groups import label_by_path, param_groups
from adadelta_jax._hooks import with_step_hooks

__version__ = "0.1.0"

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

# Objects name the place where users find them, so that a pickled state outlives a move of its file.
for _public in (
    ScaleByAdadeltaState,
    adadelta,
    carry_over_state,
    label_by_path,
    param_groups,
    scale_by_adadelta,
    with_step_hooks,
):
    _public.__module__ = __name__
del _public
