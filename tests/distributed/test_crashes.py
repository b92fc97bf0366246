"""A run that is killed again and again ends with the bits of an uninterrupted run."""

import itertools
import os
import random
import signal
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.distributed.processes import (
    LONGEST,
    assert_same_bits,
    output_of,
    result_in,
    run,
    started,
    wait_for,
)

CRASHES = int(os.environ.get("ADADELTA_JAX_CRASHES", "3"))
STEPS_TO_A_CRASH = 12
# Enough steps after the last crash that even a slow watcher kills the process before it ends.
STEPS = STEPS_TO_A_CRASH * CRASHES + 60
FLAGS = ("--steps", STEPS, "--save-every", 2)
MOMENTS = ("during a save", "while it restores", "anywhere")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A folder with result.npz of a run without checkpoints, and all checkpoints of another run."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    checkpoints = ("--checkpoint-dir", folder / "checkpoints", "--keep", STEPS)
    with (
        started("multihost.py", *FLAGS, "--result", folder / "result.npz") as one,
        started("multihost.py", *FLAGS, *checkpoints) as other,
    ):
        statuses, outputs = wait_for([one, other])
    assert statuses == [0, 0], outputs
    return folder


def saved_steps(folder):
    """The steps of the complete and of the unfinished checkpoints in a folder."""
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    unfinished = ".orbax-checkpoint-tmp"
    whole = [int(name) for name in names if name.isdecimal()]
    return whole, [int(name.split(".")[0]) for name in names if name.endswith(unfinished)]


def loaded(folder, step):
    """The arrays of a checkpoint, by name."""
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(folder / str(step) / "default")
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def newest_step(folder):
    """The step of the checkpoint from which Orbax would continue."""
    with ocp.CheckpointManager(folder) as manager:
        return manager.latest_step()


def wait_until(happened, process):
    """Poll until `happened()`, which must come before the process ends."""
    deadline = time.monotonic() + LONGEST
    while not happened():
        assert process.poll() is None, f"ended before it was killed:\n{output_of(process)}"
        assert time.monotonic() < deadline, f"hangs:\n{output_of(process)}"
        time.sleep(0.001)


def stopped(process):
    """Stop the process; return whether it was still running."""
    process.send_signal(signal.SIGSTOP)
    change = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    return change.si_code == os.CLD_STOPPED


def kill(process, moment, folder, target, rng):
    """Kill the process at that moment of its run, soon after `target` steps."""

    def newest():
        return max(saved_steps(folder)[0], default=0)

    def saving():
        return bool(saved_steps(folder)[1])

    if moment == "while it restores":
        wait_until(lambda: not saving(), process)  # Orbax removes unfinished checkpoints first
    else:
        before = newest()
        wait_until(lambda: newest() > max(before, target), process)
        time.sleep(rng.uniform(0, 0.1))
    while moment == "during a save":
        wait_until(saving, process)
        time.sleep(rng.uniform(0, 0.05))
        if stopped(process) and saving():
            break
        process.send_signal(signal.SIGCONT)
    process.kill()
    assert process.wait() == -signal.SIGKILL, output_of(process)


def test_a_run_that_is_killed_at_random_ends_as_one_that_is_not(uninterrupted, tmp_path):
    folder, result = tmp_path / "checkpoints", tmp_path / "result.npz"
    flags = (*FLAGS, "--checkpoint-dir", folder, "--result", result)
    rng = random.Random(0)

    for crash, moment in zip(range(CRASHES), itertools.cycle(MOMENTS)):
        target = crash * STEPS_TO_A_CRASH + rng.randrange(STEPS_TO_A_CRASH)
        with started("multihost.py", *flags) as process:
            kill(process, moment, folder, target, rng)
        whole, half = saved_steps(folder)
        assert half or moment != "during a save"
        step = newest_step(folder)
        assert step == max(whole) < STEPS
        assert_same_bits(loaded(folder, step), loaded(uninterrupted / "checkpoints", step))

    output = run("multihost.py", *flags)
    assert f"goes on from step {step}" in output
    assert_same_bits(result_in(result), result_in(uninterrupted / "result.npz"))
    assert_same_bits(loaded(folder, STEPS), loaded(uninterrupted / "checkpoints", STEPS))
