"""torch's LSTM and GRU as Flax modules that keep torch's tensors.

Each layer and direction of torch has two biases. A cell of Flax has their sum, which cannot be
taken apart again. The modules here have torch's tensors under torch's names, `weight_ih_l0` to
`bias_hh_l1_reverse`. `match_flax_params` pairs them by name, so that weights and optimizer state
move both ways bit for bit.

`lstm` and `gru` are pure functions of such a dict of tensors, for any other library. Dropout
between layers and `proj_size` are left out. `text_from_pytorch.py` trains with the LSTM.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

Params = Mapping[str, jax.Array]


def lstm(params: Params, inputs: jax.Array, initial: Any = None, lengths: Any = None) -> Any:
    """The outputs of all steps and the last states (h, c), as from `torch.nn.LSTM`.

    With a = W_ih x + b_ih and b = W_hh h + b_hh, each cut into four:

        i, f, g, o = σ(a_i + b_i), σ(a_f + b_f), tanh(a_g + b_g), σ(a_o + b_o)
        c ← f c + i g
        h ← o tanh(c)

    Args:
        params: By torch's name, `weight_ih_l0` [4 hidden, features], `weight_hh_l0` [4 hidden,
            hidden], perhaps `bias_ih_l0` and `bias_hh_l0` [4 hidden]; the same with `_reverse` if
            it is bidirectional; and the same of the further layers.
        inputs: [steps, ..., features].
        initial: The first states (h, c), each [layers * directions, ..., hidden]. None: zero.
        lengths: The lengths of the sequences [...], as of a packed sequence in torch. Outputs
            behind a sequence are zero, and its last state is that at its end. None: all steps.

    Returns:
        The outputs [steps, ..., directions * hidden] and the states, in the shapes of `initial`.

    Source: [torch.nn.LSTM](https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html).
    """

    def step(state, a, b):
        _, c = state
        i, f, g, o = map(jnp.add, a, b)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c

    return _all_layers(step, 2, params, inputs, initial, lengths)


def gru(params: Params, inputs: jax.Array, initial: Any = None, lengths: Any = None) -> Any:
    """The outputs of all steps and the last state h, as from `torch.nn.GRU`.

    With a = W_ih x + b_ih and b = W_hh h + b_hh, each cut into three:

        r, z = σ(a_r + b_r), σ(a_z + b_z)
        n = tanh(a_n + r b_n)
        h ← (1 - z) n + z h

    Arguments and results are those of `lstm`, with 3 in place of 4 and with h as the only state.

    Source: [torch.nn.GRU](https://docs.pytorch.org/docs/stable/generated/torch.nn.GRU.html).
    """

    def step(state, a, b):
        ((h,), (a_r, a_z, a_n), (b_r, b_z, b_n)) = state, a, b
        z = jax.nn.sigmoid(a_z + b_z)
        n = jnp.tanh(a_n + jax.nn.sigmoid(a_r + b_r) * b_n)
        return ((1 - z) * n + z * h,)

    initial = None if initial is None else (initial,)
    outputs, (h,) = _all_layers(step, 1, params, inputs, initial, lengths)
    return outputs, h


def _all_layers(step, state_count, params, inputs, initial, lengths):
    """The layers one after the other, and their directions beside each other."""
    suffixes = [name.removeprefix("weight_hh") for name in params if name.startswith("weight_hh")]
    directions = 2 if "_l0_reverse" in suffixes else 1
    if initial is None:
        shape = (*inputs.shape[1:-1], params["weight_hh_l0"].shape[1])
        zeros = jnp.zeros(shape, jnp.result_type(inputs, params["weight_hh_l0"]))
        initial = [[zeros] * len(suffixes)] * state_count
    states, last = list(zip(*initial, strict=True)), []
    if len(states) != len(suffixes):
        raise ValueError(f"initial must have {len(suffixes)} states, got {len(states)}")
    for layer in range(len(suffixes) // directions):
        outputs = []
        for suffix in (f"_l{layer}", f"_l{layer}_reverse")[:directions]:
            state, output = _one_layer(step, params, suffix, inputs, states[len(last)], lengths)
            last.append(state)
            outputs.append(output)
        inputs = jnp.concatenate(outputs, axis=-1)
    return inputs, tuple(map(jnp.stack, zip(*last, strict=True)))


def _one_layer(step, params, suffix, inputs, state, lengths):
    """One layer in one direction: the last state and the outputs."""
    # One product for all steps; only that with the hidden state has to wait for the step before.
    from_inputs = inputs @ params[f"weight_ih{suffix}"].T + params.get(f"bias_ih{suffix}", 0)
    weight, bias = params[f"weight_hh{suffix}"].T, params.get(f"bias_hh{suffix}", 0)
    gates = weight.shape[1] // weight.shape[0]
    # Cut into gates here: cut in the loop, the outputs of a small layer take twice as long on CPUs.
    from_inputs = jnp.split(from_inputs, gates, axis=-1)

    def body(state, at_step):
        from_input, is_inside = at_step
        from_hidden = jnp.split(state[0] @ weight + bias, gates, axis=-1)
        new = step(state, from_input, from_hidden)
        if is_inside is None:
            return new, new[0]
        new = tuple(jnp.where(is_inside, *each) for each in zip(new, state, strict=True))
        return new, jnp.where(is_inside, new[0], 0)

    is_inside = None
    if lengths is not None:
        steps = jnp.arange(len(inputs)).reshape(-1, *[1] * (inputs.ndim - 1))
        is_inside = steps < jnp.asarray(lengths)[..., None]
    return jax.lax.scan(body, state, (from_inputs, is_inside), reverse=suffix.endswith("_reverse"))


def _shapes(gates, features, hidden, num_layers, bias, bidirectional):
    """The shapes of torch's tensors by name, in torch's order."""
    shapes, directions = {}, ("", "_reverse")[: 1 + bidirectional]
    for layer in range(num_layers):
        for direction in directions:
            suffix = f"_l{layer}{direction}"
            shapes[f"weight_ih{suffix}"] = (gates * hidden, features)
            shapes[f"weight_hh{suffix}"] = (gates * hidden, hidden)
            if bias:
                shapes[f"bias_ih{suffix}"] = shapes[f"bias_hh{suffix}"] = (gates * hidden,)
        features = len(directions) * hidden
    return shapes


def _uniform(key, shape, dtype, hidden):
    """Initial values as in torch, from -1/√hidden to 1/√hidden."""
    return jax.random.uniform(key, shape, dtype, -(hidden**-0.5), hidden**-0.5)


def _call(function, params, inputs, initial, lengths, batch_first):
    """The function, with the batch as the first axis of inputs and outputs if there is one."""
    swap = batch_first and inputs.ndim > 2
    outputs, last = function(params, inputs.swapaxes(0, 1) if swap else inputs, initial, lengths)
    return outputs.swapaxes(0, 1) if swap else outputs, last


class _NNX(nnx.Module):
    """What the two modules of NNX share: torch's arguments, and its tensors as parameters."""

    gates, function = 0, staticmethod(lstm)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        bidirectional: bool = False,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.batch_first = batch_first
        shapes = _shapes(self.gates, input_size, hidden_size, num_layers, bias, bidirectional)
        for name, shape in shapes.items():
            value = _uniform(rngs.params(), shape, param_dtype, hidden_size)
            setattr(self, name, nnx.Param(value))

    def __call__(self, inputs: jax.Array, initial: Any = None, lengths: Any = None) -> Any:
        """The outputs of all steps, and the last states."""
        variables = {k: v for k, v in vars(self).items() if isinstance(v, nnx.Param)}
        params = {name: variable[...] for name, variable in variables.items()}
        return _call(self.function, params, inputs, initial, lengths, self.batch_first)


class LSTM(_NNX):
    """`torch.nn.LSTM` in NNX."""

    gates, function = 4, staticmethod(lstm)


class GRU(_NNX):
    """`torch.nn.GRU` in NNX."""

    gates, function = 3, staticmethod(gru)


class _Linen(nn.Module):
    """What the two modules of Linen share; the number of features is that of the inputs."""

    hidden_size: int
    num_layers: int = 1
    bias: bool = True
    batch_first: bool = False
    bidirectional: bool = False
    param_dtype: Any = jnp.float32

    gates, function = 0, staticmethod(lstm)

    @nn.compact
    def __call__(self, inputs: jax.Array, initial: Any = None, lengths: Any = None) -> Any:
        """The outputs of all steps, and the last states."""
        settings = (self.num_layers, self.bias, self.bidirectional)
        shapes = _shapes(self.gates, inputs.shape[-1], self.hidden_size, *settings)
        params = {
            name: self.param(name, _uniform, shape, self.param_dtype, self.hidden_size)
            for name, shape in shapes.items()
        }
        return _call(self.function, params, inputs, initial, lengths, self.batch_first)


class LinenLSTM(_Linen):
    """`torch.nn.LSTM` in Linen."""

    gates, function = 4, staticmethod(lstm)


class LinenGRU(_Linen):
    """`torch.nn.GRU` in Linen."""

    gates, function = 3, staticmethod(gru)
