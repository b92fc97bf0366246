"""Who is compared: each contender takes one step of Adadelta at a call, on arrays of its own.

A contender is called to take a step, and returns when the step is done; `leaves()` are its
parameters at that moment. All start from the same parameters and share one set of gradients.
"""

import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

import adadelta_jax
from benchmarks.common.reporting import cores

RHO, EPS = 0.9, 1e-6


class Contender(Protocol):
    """What the benchmarks ask of a contender."""

    def __call__(self) -> None:
        """Take one step, and wait until it is done."""

    def leaves(self) -> Sequence[np.ndarray]:
        """The parameters, as they are now."""
        ...


class JaxContender:
    """A jitted step, its parameters and its state, of which the last two are donated."""

    def __init__(self, step: Callable, params: Any, state: Any, *inputs: Any):
        """`step` takes (params, state, *inputs) to (params, state); `params` are copied."""
        self.jitted = jax.jit(step, donate_argnums=(0, 1))
        self.params = jax.tree.map(jnp.copy, params)
        self.state = state
        self.inputs = inputs

    def __call__(self) -> None:
        """Take one step, and wait until it is done."""
        params, state = self.jitted(self.params, self.state, *self.inputs)
        self.params, self.state = jax.block_until_ready((params, state))

    def leaves(self) -> Sequence[np.ndarray]:
        """The parameters, as they are now."""
        return [np.asarray(leaf) for leaf in jax.tree.leaves(self.params)]

    def parameters(self) -> int:
        """How many parameters there are."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))

    def compiled(self) -> jax.stages.Compiled:
        """The compiled step, to be asked about its memory."""
        return self.jitted.lower(self.params, self.state, *self.inputs).compile()


def jax_optimizers(weight_decay: float = 0.0) -> dict[str, optax.GradientTransformationExtraArgs]:
    """By name, the contenders that are Optax gradient transformations."""
    peer = optax.adadelta(1.0, rho=RHO, eps=EPS, weight_decay=weight_decay)
    return {
        "adadelta_jax": adadelta_jax.adadelta(1.0, RHO, EPS, weight_decay),
        "adadelta_jax_bfloat16": adadelta_jax.adadelta(
            1.0, RHO, EPS, weight_decay, accumulator_dtype="bfloat16"
        ),
        "optax": peer,
        "optax_flatten": optax.flatten(peer),
    }


def update_step(optimizer: optax.GradientTransformationExtraArgs) -> Callable:
    """A step that is the optimizer's alone: its update, added to the parameters."""

    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def keras_contender(params: list[jax.Array], grads: list[jax.Array]) -> JaxContender:
    """Keras on its JAX backend, with the settings of the others instead of its own defaults."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    optimizer = keras.optimizers.Adadelta(learning_rate=1.0, rho=RHO, epsilon=EPS)
    dtype = params[0].dtype.name
    variables = [keras.Variable(jnp.copy(param), dtype=dtype) for param in params]
    optimizer.build(variables)

    def step(params, state, grads):
        return optimizer.stateless_apply(state, grads, params)

    contender = JaxContender(step, [], [v.value for v in optimizer.variables], grads)
    contender.params = [variable.value for variable in variables]  # already copies of its own
    return contender


class TorchContender:
    """`torch.optim.Adadelta`, eager or compiled, on the device on which JAX is."""

    def __init__(
        self,
        params: list[jax.Array],
        grads: list[jax.Array],
        weight_decay: float,
        *,
        foreach: bool,
        compiled: bool = False,
    ):
        """Copy `params`; share `grads`."""
        os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"  # compile anew, as JAX does
        import torch

        torch.set_num_threads(cores())  # as many as XLA takes
        self.params = [torch.from_dlpack(param).clone() for param in params]
        for param, grad in zip(self.params, grads, strict=True):
            param.grad = torch.from_dlpack(grad)
        self.optimizer = torch.optim.Adadelta(
            self.params, lr=1.0, rho=RHO, eps=EPS, weight_decay=weight_decay, foreach=foreach
        )
        self.step = self.optimizer.step
        if compiled:
            warnings.filterwarnings("ignore", "dynamo_pgo force disabled")  # with the caches, above
            torch.compiler.reset()  # it stops compiling a function after eight variants of it
            self.step = torch.compile(self.step)
        self.wait = torch.cuda.synchronize if self.params[0].is_cuda else lambda: None

    def __call__(self) -> None:
        """Take one step, and wait until it is done."""
        self.step()
        self.wait()

    def leaves(self) -> Sequence[np.ndarray]:
        """The parameters, as they are now."""
        return [np.asarray(jax.dlpack.from_dlpack(param.cpu())) for param in self.params]


JAX_NAMES = (*jax_optimizers(), "keras")
TORCH_NAMES = ("torch_for_loop", "torch_foreach", "torch_compile")


def jax_contender(
    name: str, params: list[jax.Array], grads: list[jax.Array], weight_decay: float
) -> JaxContender:
    """The contender of that name, one of `JAX_NAMES`, ready for its first step."""
    if name == "keras":
        return keras_contender(params, grads)
    optimizer = jax_optimizers(weight_decay)[name]
    return JaxContender(update_step(optimizer), params, optimizer.init(params), grads)


def torch_contender(
    name: str, params: list[jax.Array], grads: list[jax.Array], weight_decay: float
) -> TorchContender:
    """The contender of that name, one of `TORCH_NAMES`, ready for its first step."""
    foreach, compiled = name != "torch_for_loop", name == "torch_compile"
    return TorchContender(params, grads, weight_decay, foreach=foreach, compiled=compiled)


def why_not(
    name: str, params: list[jax.Array], weight_decay: float, torch_compile_leaves: float = 0
) -> str | None:
    """Why a contender cannot take part in a work, in words for its row; None if it can.

    `torch_compile_leaves` is how many leaves `torch.compile` may get.
    """
    if name == "keras" and weight_decay:
        return "has no coupled weight decay"
    if name == "torch_compile" and len(params) > torch_compile_leaves:
        return f"takes long to compile {len(params)} leaves: --slow includes it"
    if name in TORCH_NAMES and jax.default_backend() != "cpu":
        import torch

        if not torch.cuda.is_available():
            return "this torch cannot use the GPU"
    return None


def random_params_and_grads(
    shapes: Sequence[tuple[int, ...]], dtype: jax.typing.DTypeLike
) -> tuple[list[jax.Array], list[jax.Array]]:
    """Parameters and gradients as a network might have them, always the same."""
    rng = np.random.default_rng(0)

    def normal(scale: float) -> list[jax.Array]:
        draws = (rng.standard_normal(shape, np.float32) for shape in shapes)
        return [jnp.asarray(scale * draw, dtype) for draw in draws]

    return normal(0.02), normal(0.01)


def in_place_pass(size_in_bytes: int) -> JaxContender:
    """The floor: one pass that moves so many bytes, adding an array to another in place.

    It reads two numbers for each that it writes. The step reads four for three, and reading is the
    cheaper of the two: a pass that only turned a sign in place would be no floor.
    """
    total = jnp.ones(size_in_bytes // 12, jnp.float32)
    term = jnp.full_like(total, 0.5)
    return JaxContender(lambda total, state, term: (total + term, state), total, (), term)
