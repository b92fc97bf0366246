"""An error is clear if this package itself raises it."""

import os
import traceback

import adadelta_jax

ROOT = os.path.dirname(adadelta_jax.__file__)


def origin(error: BaseException) -> tuple[str, str]:
    """The innermost function of this package that an error came through, and the error's type."""
    frames = traceback.extract_tb(error.__traceback__)
    # A comprehension has a frame of its own in Python 3.11.
    ours = [f.name for f in frames if f.filename.startswith(ROOT) and not f.name.startswith("<")]
    return (ours[-1] if ours else "none", type(error).__name__)


def is_clear(error: BaseException) -> bool:
    """Whether a statement of this package raised it: a ValueError, a TypeError or a KeyError."""
    innermost = traceback.extract_tb(error.__traceback__)[-1]
    return (
        isinstance(error, (ValueError, TypeError, KeyError))
        and innermost.filename.startswith(ROOT)
        and (innermost.line or "").startswith("raise ")
    )
