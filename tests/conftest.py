"""Eight devices on the CPU, for the tests of sharding; all others run on the first."""

import os

import jax

# Eight devices that wait for one another, several steps ahead, can use up the threads of XLA's
# pool, as many as there are cores, and then wait for ever.
os.environ.setdefault("NPROC", "32")
jax.config.update("jax_num_cpu_devices", 8)
