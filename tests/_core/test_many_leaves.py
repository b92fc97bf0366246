"""What a step of many leaves is made of before XLA sees it."""

import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest

from adadelta_jax import adadelta
from adadelta_jax._core.optimizer import _never
from adadelta_jax._core.rule import update_rule

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def traced(shapes, **settings):
    optimizer = adadelta(**settings)
    params = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]

    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return jax.jit(step).trace(params, jax.eval_shape(optimizer.init, params), params).jaxpr


@pytest.mark.parametrize("accumulator_dtype", [None, "bfloat16", "int8"])
def test_the_rule_is_traced_once_for_each_shape(monkeypatch, accumulator_dtype):
    calls = []

    def counted(grad, *args, **settings):
        calls.append(grad.shape)
        return update_rule(grad, *args, **settings)

    monkeypatch.setattr("adadelta_jax._core.transform.update_rule", counted)
    traced([(64,), (64, 96)] * 50, accumulator_dtype=accumulator_dtype)
    assert sorted(calls) == [(64,), (64, 96)]


def test_the_order_of_writing_is_traced_once_for_each_shape(monkeypatch):
    calls = []

    def counted(x):
        calls.append(x.shape)
        return _never(x)

    monkeypatch.setattr("adadelta_jax._core.optimizer._never", counted)
    traced([(65,), (65, 97)] * 50)  # shapes that no other test has, as the traces are kept
    assert sorted(calls) == [(65,), (65, 97)]


def test_a_leaf_adds_32_equations_to_the_step(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    equations = importlib.import_module("compile_time").equations
    assert equations(traced([(1000,)] * 51).jaxpr) - equations(traced([(1000,)]).jaxpr) == 50 * 32
