"""The compilers of TPU and GPU, which compile for chips that are not at hand.

They come with `pip install '.[test-compiled]'`: libtpu, JAX's CUDA plugin, and ptxas.
"""

import functools
import importlib.util
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, SingleDeviceSharding

# How libtpu names the smallest topology of each chip.
ONE_HOST = {
    "v4": "v4:2x2x1",
    "v5e": "v5e:2x2",
    "v5p": "v5p:2x2x1",
    "v6e": "v6e:2x2",
    "tpu7x": "tpu7x:2x2x1",
}

# What XLA's GPU compiler asks of a device, from the data sheet of an H100.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132
  fpus_per_core: 128 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: 84942979072 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536
  registers_per_block_limit: 65536 thread_dim_limit_x: 1024 thread_dim_limit_y: 1024
  thread_dim_limit_z: 64 device_vendor: "NVIDIA Corporation" device_address_bits: 64
  ecc_enabled: true name: "NVIDIA H100 80GB HBM3" driver_version: "12.9.0"
  runtime_version: "12.9.0" compile_time_toolkit_version: "12.9.0" dnn_version: "9.10.0"
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 patch: 0 }
device_description_str: "sm_9.0 with 84942979072B RAM, 132 cores"
"""


class Program(NamedTuple):
    """What a compiled step takes on each device, in bytes.

    Attributes:
        arguments: Arrays that are passed to it.
        accessed: What it reads from and writes to the device's memory, outside of loops and of a
            TPU's on-chip memory.
        scratch: What it keeps between its passes.
        aliased: Arguments that it overwrites with results.
        kernels: Whatever it starts one after another, scalars included.
        passes: Those of them that make large arrays.
        copies: Large arrays that are copied as they are.
        collectives: The bytes of the results of each kind of collective.
    """

    arguments: int
    accessed: int
    scratch: int
    aliased: int
    kernels: int
    passes: int
    copies: int
    collectives: dict[str, int]


def missing(chip: str) -> str | None:
    """What is not installed that compiles for a chip, or None."""
    package = "jax_cuda12_plugin" if chip.startswith("h100") else "libtpu"
    return None if importlib.util.find_spec(package) else package


@functools.cache
def topology(name: str) -> Any:
    """A topology as "v5e", one host; "v5e:4x4", 16 chips; or "h100:16", as many GPUs."""
    chip, _, size = name.partition(":")
    if chip == "h100":
        return topologies.get_topology_desc(
            platform="cuda", target_config=H100, topology=f"1x1x{size or 1}"
        )
    name = name if size else ONE_HOST[chip]
    return topologies.get_topology_desc(platform="tpu", topology_name=name)


def mesh(name: str, **axes: int) -> Mesh:
    """A mesh of such axes over the first devices of a topology."""
    devices = topology(name).devices[: math.prod(axes.values())]
    types = (AxisType.Auto,) * len(axes)
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=types, devices=devices)


def on_one_device(name: str, tree: Any) -> Any:
    """The shapes of a tree, on the first device of a topology."""
    device = SingleDeviceSharding(topology(name).devices[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), tree)


def compiled(step: Callable, arguments: tuple, name: str, **options: Any) -> Program:
    """The program of `step` for a topology, on whose devices the `arguments` are."""
    platform = "cuda" if name.startswith("h100") else "tpu"
    traced = jax.jit(step, **options).trace(*arguments)
    return program(traced.lower(lowering_platforms=(platform,)).compile())


def program(executable: Any) -> Program:
    """What a compiled function takes."""
    memory, text = executable.memory_analysis(), executable.as_text()
    instructions = _instructions(text[text.index("\nENTRY ") :])
    kernels = [each for each in instructions.values() if each.is_kernel()]
    return Program(
        arguments=memory.argument_size_in_bytes,
        accessed=sum(_traffic(each, instructions) for each in kernels),
        scratch=memory.temp_size_in_bytes,
        aliased=memory.alias_size_in_bytes,
        kernels=len(kernels),
        passes=sum(each.size >= LARGE for each in kernels),
        copies=sum(each.operation.startswith("copy") and each.size >= LARGE for each in kernels),
        collectives=_collectives(text),
    )


def _collectives(text: str) -> dict[str, int]:
    """The bytes of the results of each kind of collective."""
    # A collective that runs beside others stands in several computations, with one channel.
    channels = {}
    for name, each in _instructions(text).items():
        kind = each.operation.removesuffix("-start")
        if kind in COLLECTIVES:
            # What starts a transfer has its operand in its result, too.
            parts = 2 if each.operation == "collective-permute-start" else 1
            channels[kind, each.channel or name] = (each.size + each.on_chip) // parts
    collectives: dict[str, int] = {}
    for (kind, _), size in channels.items():
        collectives[kind] = collectives.get(kind, 0) + size
    return collectives


def _traffic(kernel: "_Instruction", instructions: "dict[str, _Instruction]") -> int:
    """The bytes of the device's memory that a kernel reads and writes."""
    if kernel.operation.endswith("-start") and kernel.on_chip:
        return kernel.on_chip  # a transfer to a TPU's on-chip memory, or from it
    operands = [instructions[name] for name in kernel.operands if name in instructions]
    return kernel.size + sum(each.size for each in operands)


class _Instruction(NamedTuple):
    operation: str
    size: int  # bytes of its result in the device's memory
    on_chip: int  # and in a TPU's on-chip memory
    operands: list[str]
    channel: str

    def is_kernel(self) -> bool:
        """Whether something is started for it, and not only waited for or named."""
        return not (self.operation in NO_KERNELS or self.operation.endswith("-done"))


LARGE = 1 << 20  # bytes
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
NO_KERNELS = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast"}
BITS = {"pred": 8, "bf16": 16} | {
    f"{kind}{bits}": bits for kind in "suf" for bits in (4, 8, 16, 32, 64)
}
BITS |= {"c64": 64, "c128": 128}


def _instructions(text: str) -> dict[str, _Instruction]:
    """The instructions of XLA's text, by name."""
    found = {}
    line = re.compile(
        r"^ *(?:ROOT )?%?(\S+) = (\(.*?\)|\S+) ([a-z][a-z0-9-]*)\((.*)$", re.MULTILINE
    )
    for name, shape, operation, rest in line.findall(text):
        operands = re.findall(r"%([\w.-]+)", rest.split("), ")[0])
        channel = "".join(re.findall(r"channel_id=(\d+)", rest))
        found[name] = _Instruction(operation, *_bytes(shape), operands, channel)
    return found


def _bytes(shape: str) -> tuple[int, int]:
    """The bytes of an array, or a tuple of arrays, in the device's memory and on the chip."""
    found = [0, 0]
    for dtype, dimensions, layout in re.findall(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?", shape):
        elements = math.prod(int(size) for size in dimensions.split(",") if size)
        found["S(" in layout] += elements * BITS.get(dtype, 0) // 8
    return found[0], found[1]
