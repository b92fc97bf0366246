"""Eight devices on the CPU, for the tests of sharding; all others run on the first."""

import jax

jax.config.update("jax_num_cpu_devices", 8)
