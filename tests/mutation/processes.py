"""Tests in processes that start fast: forked from one that has imported JAX and torch, unused.

They share the programs that XLA compiles, most of which are the same for every mutant. That takes
two thirds off their time.
"""

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# For the processes, which import JAX after this.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(ROOT / "build" / "mutants" / "compiled")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# No cache of failures; assertions as they are, as nobody reads why one fails.
OPTIONS = ["-x", "-q", "-p", "no:cacheprovider", "--assert=plain"]

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "chex",
        "hypothesis",
        "jax",
        "jax.test_util",
        "mpmath",
        "optax",
        "pytest",
        "torch",
        "tests.mutation.mutants",
    ]
)


class _FirstFailure:
    """A pytest plugin that tells the name of the first test that fails."""

    def __init__(self, tell):
        self.tell = tell

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.tell(report.nodeid)

    def pytest_collectreport(self, report):
        if report.failed:
            self.tell(report.nodeid)


def failing_test(copy: Path, tests: list[str], timeout: float) -> str | None:
    """The first of the tests that fails in a copy of the repository; None where all pass.

    Where they take longer than `timeout` seconds, or their process dies, it is the first file.
    """
    receiver, sender = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_run, args=(copy, tests, sender))
    process.start()
    sender.close()
    try:
        if receiver.poll(timeout):
            return receiver.recv()
        return f"{tests[0]}::timeout"
    except EOFError:
        return f"{tests[0]}::died"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with all that the tests started
        process.join()


def _run(copy, tests, sender):
    os.setsid()
    gc.freeze()  # what was imported before is not looked through again
    os.chdir(copy)
    sys.path[:] = [str(copy), *(path for path in sys.path if path not in ("", os.fspath(ROOT)))]
    sys.dont_write_bytecode = True  # two mutants may be written in one tick of the file's clock
    with open(copy / "output.txt", "w") as output, contextlib.redirect_stdout(output):
        status = pytest.main([*OPTIONS, *tests], plugins=[_FirstFailure(sender.send)])
    package = sys.modules.get("adadelta_jax")
    if package is not None and Path(package.__file__).parents[1] != copy:
        raise RuntimeError(f"the tests ran with {package.__file__}, not with that of {copy}")
    sender.send(None if status == 0 else f"{tests[0]}::{status!r}")
