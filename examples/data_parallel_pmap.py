"""Train on all devices of one machine with `jax.pmap`, each on its own part of the batch.

Every device has a replica of the parameters and of the optimizer's state. `jax.lax.pmean` averages
the gradients over the devices, so that all take the same step and the replicas stay the same, bit
for bit. New programs use `jax.jit` with shardings, as `sharded_zero1.py` does; `adadelta` does not
mind either way.
"""

import argparse
from collections.abc import Sequence
from functools import partial

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
from tqdm import trange

from adadelta_jax import adadelta

optimizer = adadelta()


@partial(jax.pmap, axis_name="devices", donate_argnums=(0, 1))
def train_step(params, state, batch):
    """One step, as each device takes it: its gradients, their mean over the devices, the update."""
    grads = jax.grad(mean_loss)(params, batch)
    grads = jax.lax.pmean(grads, axis_name="devices")
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state


def main(argv: Sequence[str] | None = None) -> None:
    """Train, show that the replicas agree, and tell the accuracy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=64, help="digits in a step, in all")
    flags = parser.parse_args(argv)
    jax.config.update("jax_num_cpu_devices", 8)  # where there is nothing but a CPU
    devices = jax.local_device_count()
    if flags.batch_size % devices:
        parser.error(f"--batch-size must divide among {devices} devices, got {flags.batch_size}")

    digits, test = train_and_test_digits()
    params = jax.tree.map(lambda array: np.stack([array] * devices), initial_params())
    params, state = jax.pmap(lambda params: (params, optimizer.init(params)))(params)
    for step in trange(flags.steps, desc="step"):
        indices = indices_of_step(step, flags.batch_size).reshape(devices, -1)
        params, state = train_step(params, state, digits.at(indices))
        # More devices than cores can wait for each other for ever when steps overlap on a CPU.
        jax.block_until_ready(params)

    replicas = jax.device_get((params, state))
    for replica in jax.tree.leaves(replicas):
        np.testing.assert_array_equal(replica, np.broadcast_to(replica[:1], replica.shape))
    loss, accuracy = loss_and_accuracy(jax.tree.map(lambda array: array[0], replicas[0]), test)
    print(f"{devices} devices hold the same parameters and the same v and u, bit for bit")
    print(f"test loss: {loss:.4f} nats")
    print(f"test accuracy: {accuracy:.2f} %")


if __name__ == "__main__":
    main()
