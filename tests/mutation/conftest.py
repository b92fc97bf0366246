"""Nothing here is a test, nor has doctests: it needs cosmic-ray, which the tests do without."""

collect_ignore_glob = ["*.py"]
