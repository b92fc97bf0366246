"""Steps that `jax.export` keeps for shapes which are not yet known."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from jax import export

from adadelta_jax import adadelta


@pytest.mark.parametrize("param_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("accumulator_dtype", [None, "bfloat16", "float16"])
def test_a_step_exported_with_symbolic_shapes_is_the_step(accumulator_dtype, param_dtype):
    optimizer = adadelta(accumulator_dtype=accumulator_dtype, weight_decay=0.1)

    @jax.jit
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def after_three_steps(step):
        params = jnp.linspace(-1, 1, 5 * 7 * 3, dtype=param_dtype).reshape(5, 7, 3)
        state = optimizer.init(params)
        for _ in range(3):
            params, state = step(params, state, params * 0.1)
        return params, state

    rows, columns = export.symbolic_shape("rows, columns")
    params = jax.ShapeDtypeStruct((rows, columns, 3), param_dtype)
    exported = export.export(step)(params, jax.eval_shape(optimizer.init, params), params)
    chex.assert_trees_all_equal(after_three_steps(jax.jit(exported.call)), after_three_steps(step))
