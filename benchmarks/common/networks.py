"""The networks that benchmarks train, and a text for the one that reads."""

import pydoc_data.topics

import numpy as np
from flax import linen as nn


class MLP(nn.Module):
    """Four tanh layers of one width."""

    width: int

    @nn.compact
    def __call__(self, x):
        """From (batch, width) to (batch, width)."""
        for _ in range(4):
            x = nn.tanh(nn.Dense(self.width)(x))
        return x


class CNN(nn.Module):
    """Two convolutions, each halving the image, and two dense layers."""

    channels: int

    @nn.compact
    def __call__(self, x):
        """From (batch, height, width, 1) to (batch, 10)."""
        for channels in (self.channels, 2 * self.channels):
            x = nn.max_pool(nn.relu(nn.Conv(channels, (3, 3))(x)), (2, 2), (2, 2))
        x = x.reshape(len(x), -1)
        return nn.Dense(10)(nn.relu(nn.Dense(128)(x)))


class Transformer(nn.Module):
    """Pre-norm blocks of causal self-attention and MLP."""

    width: int
    depth: int

    @nn.compact
    def __call__(self, x):
        """From (batch, time, width) to (batch, time, width)."""
        mask = nn.make_causal_mask(x[..., 0])
        for _ in range(self.depth):
            # No biases: the gradient of the keys' is zero but for rounding, so no two steps agree.
            attention = nn.MultiHeadDotProductAttention(num_heads=4, use_bias=False)
            x = x + attention(nn.LayerNorm()(x), mask=mask)
            y = nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x)))
            x = x + nn.Dense(self.width)(y)
        return nn.LayerNorm()(x)


class CharacterModel(nn.Module):
    """A transformer that predicts the next character."""

    characters: int
    width: int
    depth: int

    @nn.compact
    def __call__(self, text):
        """From int32 (batch, time) to logits (batch, time, characters)."""
        normal = nn.initializers.normal(0.02)
        positions = self.param("positions", normal, (text.shape[-1], self.width))
        x = nn.Embed(self.characters, self.width)(text) + positions
        return nn.Dense(self.characters)(Transformer(self.width, self.depth)(x))


def help_texts() -> tuple[int, np.ndarray]:
    """What Python's help() knows of the language, which comes with Python.

    Returns:
        How many different characters there are, and which of them follow each other.
    """
    text = list("".join(pydoc_data.topics.topics.values()))
    characters, indices = np.unique(text, return_inverse=True)
    return len(characters), indices
