"""What a clear error is: one that this package raises in words of its own."""

import os
import traceback

import adadelta_jax

ROOT = os.path.dirname(adadelta_jax.__file__)

# Where Python, JAX or NumPy still speaks for this package: the innermost function of it, and what
# escapes from there; or what is wrong but accepted. tests/bad_input has cases of them.
NOT_YET = frozenset(
    {
        ("accepted", "lr"),
        ("accepted", "maximize"),
        ("accepted", "params"),
        ("accepted", "step"),
        ("accepted", "weight_decay"),
        ("_check_number", "OverflowError"),
        ("_entries_by_name", "AttributeError"),
        ("_entries_by_name", "KeyError"),
        ("_entries_by_name", "NotImplementedError"),
        ("_entries_by_name", "RuntimeError"),
        ("_entries_by_name", "TypeError"),
        ("_entries_by_name", "ValueError"),
        ("_place", "TypeError"),
        ("_prefixes", "AttributeError"),
        ("_prefixes", "TypeError"),
        ("_settings", "TypeError"),
        ("_settings", "ValueError"),
        ("check_coverage", "TypeError"),
        ("check_groups", "TypeError"),
        ("check_rules", "OverflowError"),
        ("is_running_statistic", "AttributeError"),
        ("is_running_statistic", "TypeError"),
        ("match_flax_params", "NotImplementedError"),
        ("match_flax_params", "RuntimeError"),
        ("match_flax_params", "ValueError"),
        ("names_in_groups", "TypeError"),
        ("read_average", "ValueError"),
        ("read_step", "OverflowError"),
    }
)


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
