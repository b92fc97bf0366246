"""A transformer that predicts the next character, and a text to train it on."""

import pydoc_data.topics

import numpy as np
import train_step
from flax import linen as nn


def help_texts() -> tuple[int, np.ndarray]:
    """What Python's help() knows of the language, which comes with Python.

    Returns:
        How many different characters there are, and which of them follow each other.
    """
    text = list("".join(pydoc_data.topics.topics.values()))
    characters, indices = np.unique(text, return_inverse=True)
    return len(characters), indices


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
        return nn.Dense(self.characters)(train_step.Transformer(self.width, self.depth)(x))
