"""Flax NNX: its optimizers, a functional loop, LoRA, stacked layers and sharding metadata."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from adadelta_jax import adadelta

X = jnp.linspace(-1, 1, 16).reshape(8, 2)
Y = X.sum(1, keepdims=True) + 1  # no parameter's gradient is zero
STEPS, WIDTH = 6, 4


class Plain(nnx.Module):
    """Two layers."""

    def __init__(self, rngs):
        self.first = nnx.Linear(2, WIDTH, rngs=rngs)
        self.second = nnx.Linear(WIDTH, 1, rngs=rngs)

    def __call__(self, x):
        return self.second(jnp.tanh(self.first(x)))


class Normalised(nnx.Module):
    """A network with batch norm and dropout, which draws from a stream of its own."""

    def __init__(self, rngs):
        # Without a bias before the batch norm: its gradient would be rounding errors alone.
        self.first = nnx.Linear(2, WIDTH, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(WIDTH, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.25, rngs=rngs)
        self.second = nnx.Linear(WIDTH, 1, rngs=rngs)

    def __call__(self, x):
        return self.second(self.dropout(jnp.tanh(self.norm(self.first(x)))))


class Stacked(nnx.Module):
    """Layers whose parameters are stacked along a first axis, and which a scan runs."""

    def __init__(self, rngs, kernel_init=None):
        kernel_init = kernel_init or nnx.initializers.lecun_normal()

        @nnx.split_rngs(splits=3)
        @nnx.vmap(transform_metadata={nnx.PARTITION_NAME: None})
        def layers(rngs):
            return nnx.Linear(WIDTH, WIDTH, kernel_init=kernel_init, rngs=rngs)

        self.first = nnx.Linear(2, WIDTH, rngs=rngs)
        self.layers = layers(rngs)
        self.last = nnx.Linear(WIDTH, 1, rngs=rngs)

    def __call__(self, x):
        @nnx.scan(
            in_axes=(0, nnx.Carry),
            out_axes=nnx.Carry,
            transform_metadata={nnx.PARTITION_NAME: None},
        )
        def run(layer, x):
            return x + jnp.tanh(layer(x))

        return self.last(run(self.layers, self.first(x)))


class LowRank(nnx.Module):
    """A network with both ways to add low-rank parameters to its layers."""

    def __init__(self, rngs):
        first = nnx.Linear(2, WIDTH, rngs=rngs)
        self.first = nnx.LoRA(2, 2, WIDTH, base_module=first, rngs=rngs)
        self.second = nnx.LoRALinear(WIDTH, 1, lora_rank=2, rngs=rngs)

    def __call__(self, x):
        return self.second(jnp.tanh(self.first(x)))


def loss(model):
    return jnp.mean((model(X) - Y) ** 2)


def values(model, kinds=(nnx.Param, nnx.BatchStat)):
    return nnx.to_pure_dict(nnx.state(model, kinds))


def by_optimizer(model, optimizer, jit=nnx.jit, wrt=nnx.Param):
    """What is in the model before the first and after every step, and the nnx.Optimizer."""
    trainer = nnx.Optimizer(model, optimizer, wrt=wrt)

    @jit
    def step(model, trainer):
        trainer.update(model, nnx.grad(loss, argnums=nnx.DiffState(0, wrt))(model))

    after = [values(model)]
    for _ in range(STEPS):
        step(model, trainer)
        after.append(values(model))
    return after, trainer


def by_model_and_optimizer(model, optimizer):
    trainer = nnx.ModelAndOptimizer(model, optimizer)

    @nnx.jit
    def step(trainer):
        trainer.update(nnx.grad(loss)(trainer.model))

    after = [values(model)]
    for _ in range(STEPS):
        step(trainer)
        after.append(values(trainer.model))
    return after


def by_split_and_merge(model, optimizer):
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def loss_of(params, rest):
        model = nnx.merge(graph, params, rest, copy=True)
        return loss(model), nnx.split(model, nnx.Param, ...)[2]

    @jax.jit
    def step(params, rest, state):
        grads, rest = jax.grad(loss_of, has_aux=True)(params, rest)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), rest, state

    state = optimizer.init(params)
    after = [values(model)]
    for _ in range(STEPS):
        params, rest, state = step(params, rest, state)
        after.append(values(nnx.merge(graph, params, rest)))
    return after


LOOPS = {
    "nnx.Optimizer, eager": lambda *args: by_optimizer(*args, jit=lambda step: step)[0],
    "nnx.Optimizer in nnx.jit": lambda *args: by_optimizer(*args)[0],
    "nnx.ModelAndOptimizer": by_model_and_optimizer,
    "split and merge": by_split_and_merge,
}


def moved(after):
    return jax.tree.map(lambda first, last: bool(jnp.any(first != last)), after[0], after[-1])


@pytest.mark.parametrize("model", [Plain, Normalised, Stacked])
@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
def test_an_nnx_model_trains_as_with_optax_in_every_loop(loop, model):
    ours = loop(model(nnx.Rngs(0)), adadelta())
    theirs = loop(model(nnx.Rngs(0)), optax.adadelta(1.0))
    chex.assert_trees_all_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert all(jax.tree.leaves(moved(ours)))


@pytest.mark.parametrize("jit", [lambda step: step, nnx.jit], ids=["eager", "jitted"])
def test_low_rank_parameters_train_as_with_optax_and_no_others_do(jit):
    ours, trainer = by_optimizer(LowRank(nnx.Rngs(0)), adadelta(), jit, nnx.LoRAParam)
    theirs, _ = by_optimizer(LowRank(nnx.Rngs(0)), optax.adadelta(1.0), jit, nnx.LoRAParam)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-5, atol=1e-6)
    low_rank, linear = dict.fromkeys(("lora_a", "lora_b"), True), {"kernel": False, "bias": False}
    assert moved(ours) == {
        "first": low_rank | {"base_module": linear},
        "second": linear | {"lora": low_rank},
    }
    assert set(trainer.opt_state[2].square_avg["second"]) == {"lora"}


LECUN = nnx.initializers.lecun_normal()
SHARDED = {
    "with_partitioning": nnx.with_partitioning(LECUN, (None, "model")),
    "with_metadata": nnx.with_metadata(
        LECUN,
        out_sharding=("embed", "hidden"),
        sharding_rules=[("embed", None), ("hidden", "model")],
    ),
}


@pytest.mark.parametrize("kernel_init", SHARDED.values(), ids=SHARDED)
def test_stacked_layers_with_sharding_metadata_train_as_with_optax(kernel_init):
    mesh = jax.make_mesh((2,), ("model",), (AxisType.Auto,), devices=jax.devices()[:2])
    with jax.set_mesh(mesh):
        ours, trainer = by_optimizer(Stacked(nnx.Rngs(0), kernel_init), adadelta())
        theirs, _ = by_optimizer(Stacked(nnx.Rngs(0), kernel_init), optax.adadelta(1.0))
    chex.assert_trees_all_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert all(jax.tree.leaves(moved(ours)))
    square_avg = trainer.opt_state[2].square_avg["layers"]["kernel"].get_value()
    for kernel in (square_avg, ours[-1]["layers"]["kernel"]):
        assert kernel.sharding.spec == P(None, None, "model")
