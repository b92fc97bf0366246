"""What is now in tests/refusals.py."""

from tests.refusals import *  # noqa: F403
