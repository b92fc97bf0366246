"""Move a training run from PyTorch to JAX and back, without losing a step.

PyTorch's example for MNIST trains a convolutional network with Adadelta and lowers the learning
rate after each epoch. The network here is that one without dropout, which would draw other numbers
in JAX. It learns the 1797 handwritten digits that come with scikit-learn.

The run starts in PyTorch and is saved to a file: weights, optimizer and scheduler. From there it
continues in three ways: in PyTorch, in Flax, and in Flax and then in PyTorch again. All three see
the same batches, so that their losses should be equal.

It needs more packages than the other examples: pip install torch safetensors
"""

import argparse
from collections.abc import Mapping, Sequence
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
    optimizer_from_torch,
    optimizer_to_torch,
    params_from_torch,
    params_to_torch,
)

Batch = tuple[np.ndarray, np.ndarray]


class TorchNetwork(torch.nn.Module):
    """Two convolutions and a pooling, then two linear layers."""

    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(1, 32, 3)
        self.conv2 = torch.nn.Conv2d(32, 64, 3)
        self.fc1 = torch.nn.Linear(64 * 2 * 2, 128)
        self.fc2 = torch.nn.Linear(128, 10)

    def forward(self, images):
        """The logits [number, 10] of images [number, 1, 8, 8]."""
        x = torch.relu(self.conv2(torch.relu(self.conv1(images))))
        x = torch.nn.functional.max_pool2d(x, 2).flatten(1)
        return self.fc2(torch.relu(self.fc1(x)))


class FlaxNetwork(nnx.Module):
    """The same network, under the same names."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(1, 32, (3, 3), padding="VALID", rngs=rngs)
        self.conv2 = nnx.Conv(32, 64, (3, 3), padding="VALID", rngs=rngs)
        self.fc1 = nnx.Linear(2 * 2 * 64, 128, rngs=rngs)
        self.fc2 = nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, images):
        """The logits [number, 10] of images [number, 8, 8, 1]."""
        x = nnx.relu(self.conv2(nnx.relu(self.conv1(images))))
        x = nnx.max_pool(x, (2, 2), strides=(2, 2)).reshape(len(images), -1)
        return self.fc2(nnx.relu(self.fc1(x)))


def epochs_of_digits(count: int, batch_size: int, seed: int) -> list[list[Batch]]:
    """In each epoch all digits once, in batches of images [size, 8, 8, 1] and their labels.

    The digits that are too few for a batch are left out.
    """
    scans, labels = load_digits(return_X_y=True)
    images = (scans / 16).reshape(-1, 8, 8, 1).astype(np.float32)
    rng = np.random.default_rng(seed)
    steps = len(images) // batch_size

    def epoch():
        order = rng.permutation(len(images))[: steps * batch_size]
        return [(images[each], labels[each]) for each in order.reshape(steps, batch_size)]

    return [epoch() for _ in range(count)]


class TorchRun:
    """A run in PyTorch, from the start or from a file."""

    def __init__(self, path: Path | None = None):
        self.model = TorchNetwork()
        self.optimizer = torch.optim.Adadelta(self.model.parameters(), lr=1.0)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, step_size=1, gamma=0.7)
        if path is not None:
            checkpoint = torch.load(path, weights_only=True)
            self.model.load_state_dict(checkpoint["model"])
            self.optimizer.load_state_dict(checkpoint["optimizer"])
            self.scheduler.load_state_dict(checkpoint["lr_scheduler"])

    def train(self, epochs: Sequence[Sequence[Batch]]) -> list[float]:
        """One step for each batch; the losses."""
        losses = []
        for batches in epochs:
            for images, labels in batches:
                self.optimizer.zero_grad()
                logits = self.model(torch.from_numpy(images).permute(0, 3, 1, 2))
                loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels))
                loss.backward()
                self.optimizer.step()
                losses.append(loss.item())
            self.scheduler.step()
        return losses

    def save(self, path: Path) -> None:
        """Save the run, and its weights once more as safetensors."""
        checkpoint = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "lr_scheduler": self.scheduler.state_dict(),
        }
        torch.save(checkpoint, path)
        safetensors.torch.save_file(self.model.state_dict(), path.with_suffix(".safetensors"))


class FlaxRun:
    """A run saved by PyTorch that continues in Flax."""

    def __init__(self, path: Path, steps_per_epoch: int):
        self.checkpoint = torch.load(path, weights_only=True)
        # checkpoint["model"] would serve as well.
        weights = safetensors.numpy.load_file(path.with_suffix(".safetensors"))
        self.graph, params = nnx.split(FlaxNetwork(nnx.Rngs(0)), nnx.Param)
        # torch flattens an image channels first, Flax channels last.
        self.mapping = match_flax_params(TorchNetwork(), params, flattened=["fc1"])
        self.params = params_from_torch(weights, params, self.mapping)
        self.optimizer, self.opt_state = optimizer_from_torch(
            self.checkpoint["optimizer"],
            self.params,
            self.mapping,
            lr_scheduler=self.checkpoint["lr_scheduler"],
            steps_per_epoch=steps_per_epoch,
        )
        self.epochs = 0

    def train(self, epochs: Sequence[Sequence[Batch]]) -> list[float]:
        """One step for each batch; the losses."""

        def loss_fn(params, images, labels):
            logits = nnx.merge(self.graph, params)(images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        @jax.jit
        def step(params, opt_state, images, labels):
            loss, grads = jax.value_and_grad(loss_fn)(params, images, labels)
            updates, opt_state = self.optimizer.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), opt_state, loss

        losses = []
        for images, labels in (batch for batches in epochs for batch in batches):
            self.params, self.opt_state, loss = step(
                self.params, self.opt_state, images, jnp.asarray(labels, jnp.int32)
            )
            losses.append(float(loss))
        self.epochs += len(epochs)
        return losses

    def save_for_torch(self, path: Path) -> None:
        """Write the file that PyTorch would have written at this step."""
        run, groups = TorchRun(), self.checkpoint["optimizer"]["param_groups"]
        run.model.load_state_dict(params_to_torch(self.params, self.mapping))
        run.optimizer.load_state_dict(
            optimizer_to_torch(self.opt_state, self.params, self.mapping, groups)
        )
        # The groups still have the rate at which the run came here.
        run.scheduler.load_state_dict(self.checkpoint["lr_scheduler"])
        for _ in range(self.epochs):
            run.scheduler.step()
        run.save(path)


def three_runs(
    epochs: Sequence[Sequence[Batch]], folder: Path, seed: int
) -> dict[str, list[float]]:
    """The losses of the three runs, which share their first third."""
    third = len(epochs) // 3
    first, second, last = epochs[:third], epochs[third : 2 * third], epochs[2 * third :]
    torch.manual_seed(seed)
    run = TorchRun()
    start = run.train(first)
    run.save(folder / "from_torch.pt")
    torch_only = run.train([*second, *last])

    flax_run = FlaxRun(folder / "from_torch.pt", steps_per_epoch=len(epochs[0]))
    middle = flax_run.train(second)
    flax_run.save_for_torch(folder / "from_jax.pt")
    jax_to_the_end = flax_run.train(last)

    back_in_torch = TorchRun(folder / "from_jax.pt").train(last)
    return {
        "torch only": start + torch_only,
        "torch, JAX": start + middle + jax_to_the_end,
        "torch, JAX, torch": start + middle + back_in_torch,
    }


def report(runs: Mapping[str, Sequence[float]]) -> None:
    """Print the losses side by side, and their largest difference."""
    losses = np.array(list(runs.values())).T
    print(f"{'step':>5}" + "".join(f"{name:>20}" for name in runs))
    for step in sorted({*range(0, len(losses), max(1, len(losses) // 15)), len(losses) - 1}):
        print(f"{step + 1:5}" + "".join(f"{loss:20.6f}" for loss in losses[step]))
    difference = np.ptp(losses, axis=1)
    print(f"largest difference: {difference.max():.1e} nats, at step {difference.argmax() + 1}")


def draw(models: Mapping[str, Mapping[str, Sequence[float]]], path: Path) -> None:
    """Draw the three curves of each model over each other, and lines where the run moved."""
    figure = Figure(figsize=(9, 5 * len(models)), dpi=150, layout="constrained")
    looks = [("#cbd5e1", 9, "-"), ("#2563eb", 4, "-"), ("#dc2626", 1.5, "--")]
    for axes, (title, runs) in zip(
        figure.subplots(len(models), squeeze=False)[:, 0], models.items(), strict=True
    ):
        for (name, losses), (color, width, style) in zip(runs.items(), looks, strict=True):
            axes.plot(range(1, len(losses) + 1), losses, style, color=color, lw=width, label=name)
        for move in (1 / 3, 2 / 3):
            axes.axvline(move * len(runs["torch only"]) + 0.5, color="#64748b", linestyle=":")
        axes.set(xlabel="step", ylabel="cross-entropy (nats)", yscale="log", title=title)
        axes.legend(frameon=False)
    figure.savefig(path)


def main(argv: Sequence[str] | None = None) -> None:
    """Train the three runs, compare them, and draw them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=2, help="epochs in each third (default: 2)")
    parser.add_argument("--batch-size", type=int, default=64, help="digits in a step (default: 64)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default: 0)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/from_pytorch"),
        help="folder for the checkpoints and the picture (default: runs/from_pytorch)",
    )
    flags = parser.parse_args(argv)
    if flags.epochs < 1:
        parser.error(f"argument --epochs: must be at least 1, got {flags.epochs}")
    if not 1 <= flags.batch_size <= 1797:
        parser.error(f"argument --batch-size: must be from 1 to 1797, got {flags.batch_size}")
    flags.output.mkdir(parents=True, exist_ok=True)

    epochs = epochs_of_digits(3 * flags.epochs, flags.batch_size, flags.seed)
    runs = three_runs(epochs, flags.output, flags.seed)
    report(runs)
    draw({"One run, moved": runs}, flags.output / "losses.png")
    print(f"picture: {flags.output / 'losses.png'}")


if __name__ == "__main__":
    main()
