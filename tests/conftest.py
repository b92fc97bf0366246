"""Eight devices on the CPU, for the tests of sharding; all others run on the first."""

import os
import shutil
import tempfile
from pathlib import Path

import jax

# Eight devices that wait for one another, several steps ahead, can use up the threads of XLA's
# pool, as many as there are cores, and then wait for ever.
os.environ.setdefault("NPROC", "32")
jax.config.update("jax_num_cpu_devices", 8)

# What several tests compile is compiled once in a run: that takes a tenth off its time. A process
# that reads what another has half written warns, and compiles it; pyproject.toml lets it.
COMPILED = Path(
    tempfile.gettempdir(),
    f"adadelta-jax-{os.environ.get('PYTEST_XDIST_TESTRUNUID', os.getpid())}",
)
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    jax.config.update("jax_compilation_cache_dir", str(COMPILED))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_sessionfinish():
    """Leave nothing behind."""
    shutil.rmtree(COMPILED, ignore_errors=True)
