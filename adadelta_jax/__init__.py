"""Adadelta for JAX, as Optax gradient transformations."""

from adadelta_jax._optimizer import adadelta
from adadelta_jax._transform import ScaleByAdadeltaState, scale_by_adadelta

__all__ = ["ScaleByAdadeltaState", "adadelta", "scale_by_adadelta"]
