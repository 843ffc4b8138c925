"""`python -m benchmarks faults`: runs that are made sick on purpose, and what the alarms see of it."""

from .bench import faults as main

__all__ = ["main"]
