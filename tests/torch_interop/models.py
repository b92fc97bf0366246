"""The same models in torch, Linen and NNX, and how each of them trains."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

torch = pytest.importorskip("torch", reason="trains the same models in it")


class TorchMLP(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Linear(5, 7), torch.nn.Linear(7, 3)])
        self.norm = torch.nn.LayerNorm(7)

    def forward(self, x):
        return self.layers[1](self.norm(torch.tanh(self.layers[0](x))))


class LinenMLP(nn.Module):
    dtype: Any

    def setup(self):
        kinds = {"dtype": self.dtype, "param_dtype": self.dtype}
        self.layers = [nn.Dense(7, **kinds), nn.Dense(3, **kinds)]
        self.norm = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, **kinds)

    def __call__(self, x):
        return self.layers[1](self.norm(jnp.tanh(self.layers[0](x))))


class NNXMLP(nnx.Module):
    def __init__(self, dtype, rngs):
        kinds = {"dtype": dtype, "param_dtype": dtype, "rngs": rngs}
        self.layers = nnx.List([nnx.Linear(5, 7, **kinds), nnx.Linear(7, 3, **kinds)])
        self.norm = nnx.LayerNorm(7, epsilon=1e-5, use_fast_variance=False, **kinds)

    def __call__(self, x):
        return self.layers[1](self.norm(jnp.tanh(self.layers[0](x))))


class TorchCNN(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(2, 4, 3, bias=False)
        self.bn = torch.nn.BatchNorm2d(4)
        self.out = torch.nn.Linear(4, 3)

    def forward(self, x):
        x = torch.relu(self.bn(self.conv(x.permute(0, 3, 1, 2))))
        return self.out(x.mean((2, 3)))


class LinenCNN(nn.Module):
    dtype: Any

    @nn.compact
    def __call__(self, x):
        kinds = {"dtype": self.dtype, "param_dtype": self.dtype}
        x = nn.Conv(4, (3, 3), padding="VALID", use_bias=False, name="conv", **kinds)(x)
        x = nn.BatchNorm(
            use_running_average=False, momentum=0.9, use_fast_variance=False, name="bn", **kinds
        )(x)
        return nn.Dense(3, name="out", **kinds)(nn.relu(x).mean((1, 2)))


class NNXCNN(nnx.Module):
    def __init__(self, dtype, rngs):
        kinds = {"dtype": dtype, "param_dtype": dtype, "rngs": rngs}
        self.conv = nnx.Conv(2, 4, (3, 3), padding="VALID", use_bias=False, **kinds)
        self.bn = nnx.BatchNorm(4, momentum=0.9, use_fast_variance=False, **kinds)
        self.out = nnx.Linear(4, 3, **kinds)

    def __call__(self, x):
        return self.out(nnx.relu(self.bn(self.conv(x))).mean((1, 2)))


class TorchEmbedding(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(11, 4)
        self.out = torch.nn.Linear(4, 3)

    def forward(self, tokens):
        return self.out(self.embed(tokens).mean(1))


class LinenEmbedding(nn.Module):
    dtype: Any

    @nn.compact
    def __call__(self, tokens):
        kinds = {"dtype": self.dtype, "param_dtype": self.dtype}
        x = nn.Embed(11, 4, name="embed", **kinds)(tokens).mean(1)
        return nn.Dense(3, name="out", **kinds)(x)


class NNXEmbedding(nnx.Module):
    def __init__(self, dtype, rngs):
        kinds = {"dtype": dtype, "param_dtype": dtype, "rngs": rngs}
        self.embed = nnx.Embed(11, 4, **kinds)
        self.out = nnx.Linear(4, 3, **kinds)

    def __call__(self, tokens):
        return self.out(self.embed(tokens).mean(1))


class Model(NamedTuple):
    torch: type
    linen: type
    nnx: type
    shape: tuple[int, ...]  # of a batch of inputs, which are tokens if there are two axes of 6

    def batches(self, count, dtype="float64"):
        """Inputs and targets of some steps."""
        rng = np.random.default_rng(0)
        for _ in range(count):
            if self.torch is TorchEmbedding:
                inputs = rng.integers(0, 11, self.shape)
            else:
                inputs = rng.normal(size=self.shape).astype(dtype)
            yield inputs, rng.normal(size=(self.shape[0], 3)).astype(dtype)


MODELS = {
    "mlp": Model(TorchMLP, LinenMLP, NNXMLP, (8, 5)),
    "cnn": Model(TorchCNN, LinenCNN, NNXCNN, (8, 6, 6, 2)),
    "embedding": Model(TorchEmbedding, LinenEmbedding, NNXEmbedding, (8, 6)),
}


def train_torch(model, optimizer, batches):
    """Steps of torch; the last loss."""
    loss = None
    for inputs, targets in batches:
        optimizer.zero_grad()
        loss = ((model(torch.from_numpy(inputs)) - torch.from_numpy(targets)) ** 2).mean()
        loss.backward()
        optimizer.step()
    return loss.item()


class LinenRun:
    """A Linen model and its parameters, with running statistics where it has some."""

    def __init__(self, model, dtype):
        inputs, _ = next(model.batches(1))
        self.module = model.linen(dtype)
        variables = self.module.init(jax.random.key(0), inputs)
        self.params, self.stats = variables["params"], variables.get("batch_stats", {})

    def loss(self, params, stats, inputs, targets):
        variables = {"params": params, "batch_stats": stats}
        outputs, variables = self.module.apply(variables, inputs, mutable=["batch_stats"])
        return ((outputs - targets) ** 2).mean(), variables.get("batch_stats", {})


class NNXRun:
    """An NNX model and its parameters, with running statistics where it has some."""

    def __init__(self, model, dtype):
        module = model.nnx(dtype, nnx.Rngs(0))
        self.graph, self.params, self.stats = nnx.split(module, nnx.Param, nnx.BatchStat)

    def loss(self, params, stats, inputs, targets):
        module = nnx.merge(self.graph, params, stats, copy=True)
        loss = ((module(inputs) - targets) ** 2).mean()
        return loss, nnx.state(module, nnx.BatchStat)


def train_jax(run, optimizer, params, opt_state, stats, batches):
    """Steps of `run` in JAX: the parameters, state and statistics after them, and the last loss."""

    @jax.jit
    def step(params, opt_state, stats, inputs, targets):
        grad_fn = jax.value_and_grad(run.loss, has_aux=True)
        (loss, stats), grads = grad_fn(params, stats, inputs, targets)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, stats, loss

    loss = None
    for inputs, targets in batches:
        params, opt_state, stats, loss = step(params, opt_state, stats, inputs, targets)
    return params, opt_state, stats, loss
