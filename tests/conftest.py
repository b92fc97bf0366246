"""Eight devices on the CPU for the tests of sharding. All other tests run on the first."""

import os
import shutil
import tempfile
from pathlib import Path

import jax
import pytest

# So that these show the values of an assertion that fails.
pytest.register_assert_rewrite(
    "tests.refusals", "tests.distributed.layouts", "tests.distributed.processes"
)

# XLA's pool has as many threads as there are cores. Eight devices that wait for each other, several
# steps ahead, can use them up and then wait for ever.
os.environ.setdefault("NPROC", "32")
jax.config.update("jax_num_cpu_devices", 8)

# Programs that several tests share are compiled once per run, which then takes a tenth less time.
# A process that reads a half-written program warns and compiles it; pyproject.toml allows that.
COMPILED = Path(
    tempfile.gettempdir(),
    f"adadelta-jax-{os.environ.get('PYTEST_XDIST_TESTRUNUID', os.getpid())}",
)
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    jax.config.update("jax_compilation_cache_dir", str(COMPILED))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_ignore_collect(collection_path):
    """Collect files of tests alone: the modules that these import may need torch."""
    is_helper = collection_path.suffix == ".py" and not collection_path.name.startswith("test_")
    return True if is_helper else None  # None leaves the decision to others


def pytest_sessionfinish():
    """Leave nothing behind."""
    shutil.rmtree(COMPILED, ignore_errors=True)
