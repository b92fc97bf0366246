"""Split Adadelta's v and u among devices (ZeRO-1): the same training, a fraction of the memory.

A batch is sharded over the devices, and the parameters are on every device. v and u are twice as
large as the parameters; here each device keeps and updates its own part of them. All that it takes
is `state_shardings` with the mesh axis: XLA does the communication.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax
from digits_network import (
    indices_of_step,
    initial_params,
    loss_and_accuracy,
    mean_loss,
    train_and_test_digits,
)
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from tqdm import trange

from adadelta_jax import adadelta
from adadelta_jax.sharding import bytes_per_device, state_shardings


def train(
    devices: Sequence[Any], zero_axis: str | None, steps: int, batch_size: int
) -> tuple[Any, optax.OptState]:
    """The parameters and the state after training on these devices."""
    mesh = jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)
    everywhere = NamedSharding(mesh, PartitionSpec())
    over_data = NamedSharding(mesh, PartitionSpec("data"))
    optimizer = adadelta()
    params = jax.device_put(initial_params(), everywhere)
    shardings = state_shardings(optimizer, params, everywhere, zero_axis=zero_axis)
    state = jax.jit(optimizer.init, out_shardings=shardings)(params)

    def step_on(params, state, batch):
        # The mean is over the whole batch: XLA adds the devices' gradients up.
        grads = jax.grad(mean_loss)(params, batch)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    train_step = jax.jit(step_on, out_shardings=(everywhere, shardings), donate_argnums=(0, 1))
    digits, _ = train_and_test_digits()
    for step in trange(steps, desc=f"{len(devices)} devices, zero_axis={zero_axis}"):
        batch = digits.at(indices_of_step(step, batch_size))
        params, state = train_step(params, state, jax.device_put(batch, over_data))
        # More devices than cores can wait for each other for ever when steps overlap on a CPU.
        jax.block_until_ready(params)
    return params, state


def accumulator_bytes(state: optax.OptState) -> int:
    """The bytes of v and u on each device."""
    accumulators = [optax.tree.get(state, name) for name in ("square_avg", "acc_delta")]
    return bytes_per_device(accumulators, jax.tree.map(lambda array: array.sharding, accumulators))


def largest_difference(a: Any, b: Any) -> float:
    """Of any two numbers in the same place of two trees."""
    differences = jax.tree.map(lambda x, y: np.max(np.abs(x - y)), *jax.device_get((a, b)))
    return float(max(jax.tree.leaves(differences)))


def main(argv: Sequence[str] | None = None) -> None:
    """Train on one device, on all, and on all with v and u split, and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=64)
    flags = parser.parse_args(argv)
    jax.config.update("jax_num_cpu_devices", 8)  # where there is nothing but a CPU
    devices = jax.devices()
    if flags.batch_size % len(devices):
        parser.error(f"--batch-size must divide among {len(devices)}, got {flags.batch_size}")

    settings = (flags.steps, flags.batch_size)
    alone, _ = train(devices[:1], None, *settings)
    replicated, replicated_state = train(devices, None, *settings)
    split, split_state = train(devices, "data", *settings)

    _, test = train_and_test_digits()
    _, accuracy = loss_and_accuracy(jax.device_get(split), test)
    print(f"test accuracy: {accuracy:.2f} %")
    print(f"v and u on every device:  {accumulator_bytes(replicated_state):7} bytes on each")
    print(f"v and u split among {len(devices)}:   {accumulator_bytes(split_state):7} bytes on each")
    print(f"parameters, split - replicated: {largest_difference(split, replicated):.1e} at most")
    print(f"parameters, split - one device: {largest_difference(split, alone):.1e} at most")


if __name__ == "__main__":
    main()
