"""Runs of the examples in processes of their own, which end at the latest with the test."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

EXAMPLES = Path(__file__).parents[2] / "examples"
LONGEST = 240  # seconds; a process that takes more hangs


@contextlib.contextmanager
def started(script, *flags, **settings):
    """The running process, whose output goes to its file `printed`; killed at the end.

    It sees CPU devices alone, and of the variables that set JAX up only `settings`.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JAX_", "XLA_", "SLURM_"))
    }
    environment |= {"JAX_PLATFORMS": "cpu"} | {name: str(settings[name]) for name in settings}
    command = [sys.executable, "-W", "error", EXAMPLES / script, *map(str, flags)]
    with tempfile.TemporaryFile("w+") as printed:
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        process.printed = printed
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with the processes that it has started
            process.wait()


def output_of(process):
    """The output so far."""
    process.printed.seek(0)
    return process.printed.read()


def wait_for(processes):
    """The statuses and outputs of processes when all have ended, or one has failed, or time is up.

    The others would wait for one that has failed.
    """
    deadline = time.monotonic() + LONGEST
    while None in (statuses := [process.poll() for process in processes]):
        if any(statuses) or time.monotonic() > deadline:
            break
        time.sleep(0.02)
    return statuses, [output_of(process) for process in processes]


def run(script, *flags, **settings):
    """The output of a script that has to succeed."""
    with started(script, *flags, **settings) as process:
        (status,), (output,) = wait_for([process])
    assert status == 0, f"status {status}:\n{output}"
    return output


def run_together(count, *flags, slurm=False, **settings):
    """The outputs of `count` processes of multihost.py, all of which have to succeed."""
    for _ in range(3):
        with socket.create_server(("localhost", 0)) as free:
            port = free.getsockname()[1]
        with contextlib.ExitStack() as stack:
            processes = []
            for index in range(count):
                if slurm:
                    joining, own = ["--cluster"], settings | slurm_settings(count, index, port)
                else:
                    joining, own = ["--coordinator", f"localhost:{port}"], settings
                    joining += ["--num-processes", count, "--process-id", index]
                process = started("multihost.py", *flags, *joining, **own)
                processes.append(stack.enter_context(process))
            statuses, outputs = wait_for(processes)
        if "Failed to add port" not in outputs[0]:  # else another program was quicker
            break
    report = "\n".join(f"status {s}:\n{o}" for s, o in zip(statuses, outputs, strict=True))
    assert statuses == [0] * count, report
    return outputs


def slurm_settings(count, index, port):
    """The variables that SLURM sets for each process of a job on this machine."""
    return {
        "SLURM_JOB_ID": 1,
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": count,
        "SLURM_PROCID": index,
        "SLURM_LOCALID": index,
        "JAX_COORDINATOR_PORT": port,
    }


def result_in(path):
    """The arrays that --result wrote, by name."""
    with np.load(path) as arrays:
        return dict(arrays)


def assert_same_bits(actual, expected):
    """Raise unless two results have the same dtypes, shapes and bits."""
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        assert actual[name].dtype == array.dtype
        assert actual[name].shape == array.shape
        assert actual[name].tobytes() == array.tobytes(), name
