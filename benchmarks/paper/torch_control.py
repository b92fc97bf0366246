"""The paper's network trained by torch.optim.Adadelta: same start, same digits in the same order.

What differs from `paper_network` is the library alone: its arithmetic, its gradients, its
optimizer.
"""

from collections.abc import Iterator

import jax
import numpy as np
import torch
from torch import nn

from benchmarks.paper import network as paper_network
from benchmarks.paper.network import Digits, Params


def network(params: Params) -> nn.Sequential:
    """The network in torch, with these parameters."""
    layers: list[nn.Module] = []
    for param in jax.device_get(params):
        fan_in, fan_out = param["weight"].shape
        linear = nn.Linear(fan_in, fan_out)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(param["weight"].T.copy()))
            linear.bias.copy_(torch.from_numpy(param["bias"].copy()))
        layers += [linear, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def tensors(digits: Digits) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels."""
    images, labels = jax.device_get(digits)
    return torch.tensor(images), torch.tensor(labels, dtype=torch.int64)


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    digits: tuple[torch.Tensor, torch.Tensor],
    batches: np.ndarray,
) -> None:
    """A step for each batch; `batches` is as `paper_network.batches` gives them."""
    images, labels = digits
    for batch in torch.tensor(batches, dtype=torch.int64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()


def error_percent(model: nn.Module, digits: tuple[torch.Tensor, torch.Tensor]) -> float:
    """How many of 100 digits the network gets wrong."""
    images, labels = digits
    with torch.no_grad():
        wrong = model(images).argmax(-1) != labels
    return 100 * int(wrong.sum()) / len(labels)


def errors_by_epoch(
    train: Digits,
    test: Digits,
    *,
    rho: float,
    eps: float,
    seed: int,
    epochs: int,
    initialisation: str,
) -> Iterator[float]:
    """As `paper_network.errors_by_epoch`, of torch's Adadelta with a learning rate of 1."""
    # Layers are small: on cores that others use too, two threads mostly wait for one another.
    torch.set_num_threads(1)
    model = network(paper_network.start(seed, initialisation))
    optimizer = torch.optim.Adadelta(model.parameters(), lr=1.0, rho=rho, eps=eps)
    to_train, to_test = tensors(train), tensors(test)
    for epoch in range(epochs):
        key = paper_network.epoch_key(seed, epoch)
        order = np.asarray(paper_network.batches(key, len(train.labels)))
        train_epoch(model, optimizer, to_train, order)
        yield error_percent(model, to_test)
