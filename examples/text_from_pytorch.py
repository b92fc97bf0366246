"""Move two small models of text from PyTorch to JAX and back, without losing a step.

They learn from the source of Python's own argparse, character by character. A bidirectional LSTM
tags each character with the kind of token that it is part of, which Python's tokenizer tells. A
layer of a transformer predicts the next character. Each run starts in PyTorch and is saved to a
file. From there it continues in PyTorch, in Flax, and in Flax and then in PyTorch again.

`match_flax_params` pairs all tensors by name: torch's LSTM has a counterpart with the same tensors
in torch_recurrent.py, and the query, key and value that torch keeps in one tensor are three in
Flax.

It needs more packages than the other examples: pip install torch safetensors
"""

import argparse
import inspect
import io
import itertools
import token
import tokenize
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx
from from_pytorch import draw, report
from torch_recurrent import LSTM

from adadelta_jax.torch_interop import (
    match_flax_params,
    optimizer_from_torch,
    optimizer_to_torch,
    params_from_torch,
    params_to_torch,
)

CHARACTERS, LENGTH, WIDTH, HEADS = 128, 64, 64, 4
TAGS = ("space", "NAME", "NUMBER", "STRING", "OP", "COMMENT")

Batch = tuple[np.ndarray, np.ndarray]


class TorchTagger(torch.nn.Module):
    """An embedding, a bidirectional LSTM and a linear layer."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(CHARACTERS, WIDTH)
        self.lstm = torch.nn.LSTM(WIDTH, WIDTH, batch_first=True, bidirectional=True)
        self.out = torch.nn.Linear(2 * WIDTH, len(TAGS))

    def forward(self, characters):
        """The logits [number, length, tags] of characters [number, length]."""
        return self.out(self.lstm(self.embedding(characters))[0])


class FlaxTagger(nnx.Module):
    """The same, under the same names."""

    def __init__(self, rngs: nnx.Rngs):
        self.embedding = nnx.Embed(CHARACTERS, WIDTH, rngs=rngs)
        self.lstm = LSTM(WIDTH, WIDTH, batch_first=True, bidirectional=True, rngs=rngs)
        self.out = nnx.Linear(2 * WIDTH, len(TAGS), rngs=rngs)

    def __call__(self, characters):
        """The logits [number, length, tags] of characters [number, length]."""
        return self.out(self.lstm(self.embedding(characters))[0])


class TorchPredictor(torch.nn.Module):
    """Embeddings of characters and positions, a layer of a transformer, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(CHARACTERS, WIDTH)
        self.position = torch.nn.Embedding(LENGTH, WIDTH)
        self.layer = torch.nn.TransformerEncoderLayer(
            WIDTH, HEADS, 2 * WIDTH, dropout=0.0, batch_first=True, norm_first=True
        )
        self.out = torch.nn.Linear(WIDTH, CHARACTERS)

    def forward(self, characters):
        """The logits [number, length, characters] of what follows each character."""
        x = self.embedding(characters) + self.position(torch.arange(LENGTH))
        mask = torch.nn.Transformer.generate_square_subsequent_mask(LENGTH)
        return self.out(self.layer(x, src_mask=mask, is_causal=True))


class FlaxLayer(nnx.Module):
    """`torch.nn.TransformerEncoderLayer(norm_first=True)`, which looks at no later character."""

    def __init__(self, rngs: nnx.Rngs):
        self.self_attn = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
        self.linear1 = nnx.Linear(WIDTH, 2 * WIDTH, rngs=rngs)
        self.linear2 = nnx.Linear(2 * WIDTH, WIDTH, rngs=rngs)
        # torch's epsilon; and torch averages the squares of differences.
        norm = {"epsilon": 1e-5, "use_fast_variance": False, "rngs": rngs}
        self.norm1, self.norm2 = nnx.LayerNorm(WIDTH, **norm), nnx.LayerNorm(WIDTH, **norm)

    def __call__(self, x):
        """What the next layer reads [number, length, width]."""
        x = x + self.self_attn(self.norm1(x), mask=nnx.make_causal_mask(x[..., 0]))
        return x + self.linear2(nnx.relu(self.linear1(self.norm2(x))))


class FlaxPredictor(nnx.Module):
    """The same as `TorchPredictor`, under the same names."""

    def __init__(self, rngs: nnx.Rngs):
        self.embedding = nnx.Embed(CHARACTERS, WIDTH, rngs=rngs)
        self.position = nnx.Embed(LENGTH, WIDTH, rngs=rngs)
        self.layer = FlaxLayer(rngs)
        self.out = nnx.Linear(WIDTH, CHARACTERS, rngs=rngs)

    def __call__(self, characters):
        """The logits [number, length, characters] of what follows each character."""
        x = self.embedding(characters) + self.position(jnp.arange(LENGTH))
        return self.out(self.layer(x))


class Model(NamedTuple):
    """A model on both sides."""

    torch: Any
    flax: Any
    predicts: bool  # the next character; or else the tag of this one


MODELS = {
    "a tagger with a bidirectional LSTM": Model(TorchTagger, FlaxTagger, predicts=False),
    "a predictor with attention": Model(TorchPredictor, FlaxPredictor, predicts=True),
}


def tagged(source: str) -> tuple[np.ndarray, np.ndarray]:
    """The characters of a Python source, as numbers below 128, and the tag of each."""
    lines = io.StringIO(source).readlines()
    starts = [0, *itertools.accumulate(map(len, lines))]
    tags = np.zeros(len(source), np.int64)
    for found in tokenize.generate_tokens(iter(lines).__next__):
        name = token.tok_name[found.type]
        name = "STRING" if "STRING" in name else name  # an f-string has several from Python 3.12
        if name in TAGS:
            start, stop = (starts[row - 1] + column for row, column in (found.start, found.end))
            tags[start:stop] = TAGS.index(name)
    codes = np.array([min(ord(character), CHARACTERS - 1) for character in source])
    return codes, tags


def batches_of_text(model: Model, count: int, size: int, seed: int) -> list[Batch]:
    """Random pieces of the source: characters and targets, each [size, LENGTH]."""
    codes, tags = tagged(inspect.getsource(argparse))
    rng = np.random.default_rng(seed)
    batches = []
    for _ in range(count):
        at = rng.integers(len(codes) - LENGTH, size=(size, 1)) + np.arange(LENGTH)
        batches.append((codes[at], codes[at + 1] if model.predicts else tags[at]))
    return batches


def train_in_torch(
    network: torch.nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[Batch]
) -> list[float]:
    """One step for each batch; the losses."""
    losses = []
    for characters, targets in batches:
        optimizer.zero_grad()
        logits = network(torch.from_numpy(characters)).flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(targets).flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def train_in_jax(
    model: Model, source: Path, destination: Path, second: Iterable[Batch], last: Iterable[Batch]
) -> tuple[list[float], list[float]]:
    """Continue a file of PyTorch; after the second third, write the file that PyTorch would have.

    The losses of the second third and of the last.
    """
    checkpoint = torch.load(source, weights_only=True)
    graph, params = nnx.split(model.flax(nnx.Rngs(0)), nnx.Param)
    mapping = match_flax_params(model.torch(), params)
    params = params_from_torch(checkpoint["model"], params, mapping)
    optimizer, opt_state = optimizer_from_torch(checkpoint["optimizer"], params, mapping)

    def loss_fn(params, characters, targets):
        logits = nnx.merge(graph, params)(characters)
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

    @jax.jit
    def step(params, opt_state, characters, targets):
        loss, grads = jax.value_and_grad(loss_fn)(params, characters, targets)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    def train(params, opt_state, batches):
        losses = []
        for batch in batches:
            params, opt_state, loss = step(params, opt_state, *(np.int32(each) for each in batch))
            losses.append(float(loss))
        return params, opt_state, losses

    params, opt_state, middle = train(params, opt_state, second)
    groups = checkpoint["optimizer"]["param_groups"]
    back = {
        "model": params_to_torch(params, mapping),
        "optimizer": optimizer_to_torch(opt_state, params, mapping, groups),
    }
    torch.save(back, destination)
    return middle, train(params, opt_state, last)[2]


def three_runs(
    model: Model, batches: Sequence[Batch], folder: Path, seed: int
) -> dict[str, list[float]]:
    """The losses of the three runs, which share their first third."""
    third = len(batches) // 3
    first, second, last = batches[:third], batches[third : 2 * third], batches[2 * third :]
    there, back = (folder / f"{model.torch.__name__}_from_{side}.pt" for side in ("torch", "jax"))
    torch.manual_seed(seed)
    network = model.torch()
    # At 1.0 the tagger amplifies rounding: two runs of torch that differ in the last bit of the
    # weights are apart by 5e-3 nats 100 steps later. At 0.5 they are not.
    optimizer = torch.optim.Adadelta(network.parameters(), lr=0.5)
    start = train_in_torch(network, optimizer, first)
    torch.save({"model": network.state_dict(), "optimizer": optimizer.state_dict()}, there)
    torch_only = train_in_torch(network, optimizer, [*second, *last])

    middle, jax_to_the_end = train_in_jax(model, there, back, second, last)

    network = model.torch()
    optimizer = torch.optim.Adadelta(network.parameters())
    checkpoint = torch.load(back, weights_only=True)
    network.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    back_in_torch = train_in_torch(network, optimizer, last)
    return {
        "torch only": start + torch_only,
        "torch, JAX": start + middle + jax_to_the_end,
        "torch, JAX, torch": start + middle + back_in_torch,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Train the three runs of each model, compare them, and draw them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=50, help="steps in each third (default: 50)")
    parser.add_argument("--batch-size", type=int, default=32, help="texts in a step (default: 32)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default: 0)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/text_from_pytorch"),
        help="folder for the checkpoints and the picture (default: runs/text_from_pytorch)",
    )
    flags = parser.parse_args(argv)
    for flag, value in {"--steps": flags.steps, "--batch-size": flags.batch_size}.items():
        if value < 1:
            parser.error(f"argument {flag}: must be at least 1, got {value}")
    flags.output.mkdir(parents=True, exist_ok=True)

    losses = {}
    for name, model in MODELS.items():
        batches = batches_of_text(model, 3 * flags.steps, flags.batch_size, flags.seed)
        losses[name] = three_runs(model, batches, flags.output, flags.seed)
        print(name)
        report(losses[name])
    draw(losses, flags.output / "losses.png")
    print(f"picture: {flags.output / 'losses.png'}")


if __name__ == "__main__":
    main()
