r"""Train over many processes and hosts, and go on from the newest checkpoint after a crash.

Every process feeds its own slice of each batch of scikit-learn's handwritten digits. The parameters
are on every device; the optimizer's v and u are split among them (ZeRO-1). The same script runs

on one machine, alone or as four processes::

    python examples/multihost.py
    python examples/multihost.py --processes 4

on machines that know nothing of each other, here as process 0 of 2::

    python examples/multihost.py --coordinator 10.0.0.1:1234 --num-processes 2 --process-id 0

in a SLURM job and on a TPU pod, both of which tell JAX who the other processes are::

    srun python examples/multihost.py --cluster
    gcloud compute tpus tpu-vm ssh NAME --worker=all \
        --command="python adadelta-jax/examples/multihost.py --cluster"

With --checkpoint-dir, a folder that all hosts share, a run that is started again after a crash ends
with the same parameters, bit for bit, as one that never crashed. Between CPUs the gradients travel
by Gloo, JAX's default there.
"""

import argparse
import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
from digits_network import (
    TRAIN_SIZE,
    indices_of_step,
    initial_params,
    loss_and_accuracy,
    mean_loss,
    train_and_test_digits,
)
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from tqdm import tqdm

from adadelta_jax import adadelta
from adadelta_jax.sharding import bytes_per_device, state_shardings


def train(flags: argparse.Namespace) -> dict[str, Any]:
    """Train from the newest checkpoint on, or from the start.

    Returns:
        The "params", and the optimizer's "state".
    """
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    everywhere = NamedSharding(mesh, PartitionSpec())
    over_data = NamedSharding(mesh, PartitionSpec("data"))
    optimizer = adadelta()

    def start():
        params = initial_params()
        return {"params": params, "state": optimizer.init(params)}

    params = jax.eval_shape(start)["params"]
    zero_axis = "data" if flags.zero else None
    shardings = {
        "params": jax.tree.map(lambda _: everywhere, params),
        "state": state_shardings(optimizer, params, everywhere, zero_axis=zero_axis),
    }

    def step_on(training, batch):
        # The mean is over the whole batch: XLA adds the devices' gradients up.
        loss, grads = jax.value_and_grad(mean_loss)(training["params"], batch)
        updates, state = optimizer.update(grads, training["state"], training["params"])
        params = optax.apply_updates(training["params"], updates)
        return {"params": params, "state": state}, loss

    train_step = jax.jit(step_on, out_shardings=(shardings, everywhere), donate_argnums=0)
    digits, _ = train_and_test_digits()

    def batch_of(step):
        indices = indices_of_step(step, flags.batch_size)
        own = np.split(indices, jax.process_count())[jax.process_index()]
        return jax.tree.map(
            lambda rows: jax.make_array_from_process_local_data(over_data, rows), digits.at(own)
        )

    training = jax.jit(start, out_shardings=shardings)()
    with checkpoint_manager(flags) as manager:
        done = (manager and manager.latest_step()) or 0
        if done:
            training = manager.restore(done, args=ocp.args.StandardRestore(training))
            tell(f"goes on from step {done}")
        bar = tqdm(
            range(done, flags.steps),
            desc="step",
            initial=done,
            total=flags.steps,
            mininterval=0.1 if sys.stderr.isatty() else 10.0,  # seconds: a log wants few lines
            disable=jax.process_index() > 0,
        )
        for step in bar:
            training, loss = train_step(training, batch_of(step))
            if manager:
                last = step + 1 == flags.steps
                manager.save(step + 1, args=ocp.args.StandardSave(training), force=last)
            if step % 20 == 0:  # waits for the devices
                bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
    return training


def checkpoint_manager(flags: argparse.Namespace) -> contextlib.AbstractContextManager[Any]:
    """What saves, and finds what was saved; a context of None where nothing is to be saved."""
    if flags.checkpoint_dir is None:
        return contextlib.nullcontext()
    policies = ocp.checkpoint_managers
    options = ocp.CheckpointManagerOptions(
        save_decision_policy=policies.FixedIntervalPolicy(flags.save_every),
        preservation_policy=policies.LatestN(flags.keep),
        cleanup_tmp_directories=True,  # what a crash left half saved
    )
    return ocp.CheckpointManager(flags.checkpoint_dir.resolve(), options=options)


def tell(line: str) -> None:
    """Print a line, once for all processes."""
    if jax.process_index() == 0:
        print(line, flush=True)


def start_processes(count: int, arguments: Sequence[str]) -> int:
    """Run this script as that many processes on this machine; the first status that is not 0."""
    with socket.create_server(("localhost", 0)) as free:
        coordinator = f"localhost:{free.getsockname()[1]}"
    command = [sys.executable, __file__, *arguments, "--processes", "1"]
    command += ["--coordinator", coordinator, "--num-processes", str(count), "--process-id"]
    processes = [subprocess.Popen([*command, str(index)]) for index in range(count)]
    try:
        # One that fails would leave the others waiting for it.
        while None in (statuses := [process.poll() for process in processes]):
            if any(statuses):
                break
            time.sleep(0.05)
        return next(filter(None, statuses), 0)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def flag_parser() -> argparse.ArgumentParser:
    """The flags and their defaults."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--processes", type=int, default=1, help="start as many on this machine")
    add("--cluster", action="store_true", help="join the processes that SLURM or the TPU pod names")
    add("--coordinator", metavar="HOST:PORT", help="join the processes that meet there: process 0")
    add("--num-processes", type=int, help="how many meet there")
    add("--process-id", type=int, help="which of them this is, from 0")
    add("--steps", type=int, default=300, help="of training, in all")
    add("--batch-size", type=int, default=64, help="digits in a step, over all devices")
    add("--zero", action=argparse.BooleanOptionalAction, default=True, help="split v and u")
    add("--checkpoint-dir", type=Path, help="where to save, and to go on from")
    add("--save-every", type=int, default=100, help="steps from one checkpoint to the next")
    add("--keep", type=int, default=2, help="how many of the newest checkpoints stay")
    add("--result", type=Path, help="where to write the final parameters and state, as .npz")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Join the other processes, train, and tell what came of it."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    flags = flag_parser().parse_args(arguments)
    if flags.processes > 1:
        sys.exit(start_processes(flags.processes, arguments))
    if flags.cluster:
        jax.distributed.initialize()
    elif flags.coordinator:
        jax.distributed.initialize(flags.coordinator, flags.num_processes, flags.process_id)
    devices = jax.device_count()
    if flags.batch_size % devices or not 0 < flags.batch_size <= TRAIN_SIZE:
        sys.exit(f"--batch-size must divide among {devices} devices, got {flags.batch_size}")

    training = train(flags)

    if flags.result:
        whole = multihost_utils.process_allgather(training, tiled=True)
        if jax.process_index() == 0:
            named = jax.tree.leaves_with_path(whole)
            np.savez(flags.result, **{jax.tree_util.keystr(path): leaf for path, leaf in named})
    if jax.process_index() == 0:
        _, test = train_and_test_digits()
        loss, accuracy = loss_and_accuracy(jax.device_get(training["params"]), test)
        state = training["state"]
        shardings = jax.tree.map(lambda array: array.sharding, state)
        print(f"{flags.steps} steps on {devices} devices of {jax.process_count()} processes")
        print(f"test loss: {loss:.4f} nats")
        print(f"test accuracy: {accuracy:.2f} %")
        print(f"optimizer state: {bytes_per_device(state, shardings)} bytes on each device")


if __name__ == "__main__":
    main()
