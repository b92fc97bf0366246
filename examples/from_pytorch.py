"""Move a training run from PyTorch to JAX and back, without losing a step.

A small convolutional network learns the 1797 handwritten digits that come with scikit-learn. The
run starts in PyTorch and is saved to a file. From there it continues in three ways: in PyTorch, in
Flax, and in Flax and then in PyTorch again. All three see the same batches, so that their losses
should be equal.

It needs more packages than the other examples: pip install torch safetensors
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import safetensors.numpy
import safetensors.torch
import torch
from flax import nnx
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

from adadelta_jax.torch_interop import (
    match_flax_params,
    match_flax_statistics,
    optimizer_from_torch,
    optimizer_to_torch,
    params_from_torch,
    params_to_torch,
)


class TorchNetwork(torch.nn.Module):
    """Two convolutions with a batch norm between them, then a linear layer."""

    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm = torch.nn.BatchNorm2d(8)
        self.conv2 = torch.nn.Conv2d(8, 16, 3, stride=2)
        self.out = torch.nn.Linear(16 * 3 * 3, 10)

    def forward(self, images):
        """The logits [number, 10] of images [number, 1, 8, 8]."""
        x = torch.relu(self.norm(self.conv1(images)))
        return self.out(torch.relu(self.conv2(x)).flatten(1))


class FlaxNetwork(nnx.Module):
    """The same network, under the same names."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(1, 8, (3, 3), padding=1, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(8, momentum=0.9, rngs=rngs)
        self.conv2 = nnx.Conv(8, 16, (3, 3), strides=2, padding="VALID", rngs=rngs)
        self.out = nnx.Linear(3 * 3 * 16, 10, rngs=rngs)

    def __call__(self, images):
        """The logits [number, 10] of images [number, 8, 8, 1]."""
        x = nnx.relu(self.norm(self.conv1(images)))
        return self.out(nnx.relu(self.conv2(x)).reshape(len(images), -1))


def batches_of_digits(count: int, size: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Random batches: images [size, 8, 8, 1] from 0 to 1, and their labels."""
    scans, labels = load_digits(return_X_y=True)
    images = (scans / 16).reshape(-1, 8, 8, 1).astype(np.float32)
    rng = np.random.default_rng(seed)
    chosen = [rng.choice(len(images), size, replace=False) for _ in range(count)]
    return [(images[indices], labels[indices]) for indices in chosen]


def train_in_torch(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, batches
) -> list[float]:
    """One step for each batch; the losses."""
    losses = []
    for images, labels in batches:
        optimizer.zero_grad()
        logits = model(torch.from_numpy(images).permute(0, 3, 1, 2))
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def save(model: torch.nn.Module, optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Save a run of torch, and its weights once more as safetensors."""
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
    safetensors.torch.save_file(model.state_dict(), path.with_suffix(".safetensors"))


def load_in_torch(path: Path) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """Restore a run of torch."""
    checkpoint = torch.load(path, weights_only=True)
    model = TorchNetwork()
    optimizer = torch.optim.Adadelta(model.parameters())
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    return model, optimizer


class FlaxRun:
    """A run saved by torch that continues in Flax."""

    def __init__(self, path: Path):
        checkpoint = torch.load(path, weights_only=True)
        # checkpoint["model"] would serve as well.
        weights = safetensors.numpy.load_file(path.with_suffix(".safetensors"))
        self.torch_groups = checkpoint["optimizer"]["param_groups"]

        model = FlaxNetwork(nnx.Rngs(0))
        self.graph, params, statistics = nnx.split(model, nnx.Param, nnx.BatchStat)
        # torch flattens an image channels first, Flax channels last.
        self.mapping = match_flax_params(TorchNetwork(), params, flattened=["out"])
        self.params = params_from_torch(weights, params, self.mapping)
        self.of_statistics = match_flax_statistics(TorchNetwork(), statistics)
        self.statistics = params_from_torch(
            {name: weights[name] for name in self.of_statistics}, statistics, self.of_statistics
        )
        self.optimizer, self.opt_state = optimizer_from_torch(
            checkpoint["optimizer"], self.params, self.mapping
        )

    def train(self, batches) -> list[float]:
        """One step for each batch; the losses."""

        def loss_fn(params, statistics, images, labels):
            model = nnx.merge(self.graph, params, statistics, copy=True)
            loss = optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()
            return loss, nnx.state(model, nnx.BatchStat)

        @jax.jit
        def step(params, statistics, opt_state, images, labels):
            grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
            (loss, statistics), grads = grad_fn(params, statistics, images, labels)
            updates, opt_state = self.optimizer.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), statistics, opt_state, loss

        state, losses = (self.params, self.statistics, self.opt_state), []
        for images, labels in batches:
            *state, loss = step(*state, images, jnp.asarray(labels, jnp.int32))
            losses.append(float(loss))
        self.params, self.statistics, self.opt_state = state
        return losses

    def save_for_torch(self, path: Path) -> None:
        """Write the file that torch would have written at this step."""
        model = TorchNetwork()
        tensors = params_to_torch(self.params, self.mapping)
        tensors |= params_to_torch(self.statistics, self.of_statistics)
        model.load_state_dict(tensors, strict=False)  # a batch norm's count of batches stays here
        optimizer = torch.optim.Adadelta(model.parameters())
        optimizer.load_state_dict(
            optimizer_to_torch(self.opt_state, self.params, self.mapping, self.torch_groups)
        )
        save(model, optimizer, path)


def three_runs(batches: list, folder: Path, seed: int) -> dict[str, list[float]]:
    """The losses of the three runs, which share their first third."""
    third = len(batches) // 3
    first, second, last = batches[:third], batches[third : 2 * third], batches[2 * third :]
    torch.manual_seed(seed)
    model = TorchNetwork()
    optimizer = torch.optim.Adadelta(model.parameters(), weight_decay=1e-4)
    start = train_in_torch(model, optimizer, first)
    save(model, optimizer, folder / "from_torch.pt")
    torch_only = train_in_torch(model, optimizer, second + last)

    run = FlaxRun(folder / "from_torch.pt")
    middle = run.train(second)
    run.save_for_torch(folder / "from_jax.pt")
    jax_to_the_end = run.train(last)

    back_in_torch = train_in_torch(*load_in_torch(folder / "from_jax.pt"), last)
    return {
        "torch only": start + torch_only,
        "torch, JAX": start + middle + jax_to_the_end,
        "torch, JAX, torch": start + middle + back_in_torch,
    }


def report(runs: dict[str, list[float]]) -> None:
    """Print the losses side by side, and their largest difference."""
    losses = np.array(list(runs.values())).T
    print(f"{'step':>5}" + "".join(f"{name:>20}" for name in runs))
    for step in sorted({*range(0, len(losses), max(1, len(losses) // 15)), len(losses) - 1}):
        print(f"{step + 1:5}" + "".join(f"{loss:20.6f}" for loss in losses[step]))
    difference = np.ptp(losses, axis=1)
    print(f"largest difference: {difference.max():.1e} nats, at step {difference.argmax() + 1}")


def draw(runs: dict[str, list[float]], path: Path) -> None:
    """Draw the three curves, each over the one before it, and lines where the run moved."""
    figure = Figure(figsize=(9, 5), dpi=150, layout="constrained")
    axes = figure.subplots()
    looks = [("#cbd5e1", 9, "-"), ("#2563eb", 4, "-"), ("#dc2626", 1.5, "--")]
    for (name, losses), (color, width, style) in zip(runs.items(), looks, strict=True):
        axes.plot(range(1, len(losses) + 1), losses, style, color=color, lw=width, label=name)
    for move in (1 / 3, 2 / 3):
        axes.axvline(move * len(runs["torch only"]) + 0.5, color="#64748b", linestyle=":")
    axes.set(xlabel="step", ylabel="cross-entropy (nats)", yscale="log", title="One run, moved")
    axes.legend(frameon=False)
    figure.savefig(path)


def main(argv: Sequence[str] | None = None) -> None:
    """Train the three runs, compare them, and draw them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=40, help="steps in each third (default: 40)")
    parser.add_argument("--batch-size", type=int, default=64, help="digits in a step (default: 64)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default: 0)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/from_pytorch"),
        help="folder for the checkpoints and the picture (default: runs/from_pytorch)",
    )
    flags = parser.parse_args(argv)
    if flags.steps < 1:
        parser.error(f"argument --steps: must be at least 1, got {flags.steps}")
    if not 2 <= flags.batch_size <= 1797:
        parser.error(f"argument --batch-size: must be from 2 to 1797, got {flags.batch_size}")
    flags.output.mkdir(parents=True, exist_ok=True)

    batches = batches_of_digits(3 * flags.steps, flags.batch_size, flags.seed)
    runs = three_runs(batches, flags.output, flags.seed)
    report(runs)
    draw(runs, flags.output / "losses.png")
    print(f"picture: {flags.output / 'losses.png'}")


if __name__ == "__main__":
    main()
