"""Run benchmarks by name, or all of them: ``python -m benchmarks [NAME ...]``."""

from __future__ import annotations

import importlib
import sys

NAMES = ("views", "reading", "step", "small", "inference", "tools")

for name in sys.argv[1:] or NAMES:
    if name not in NAMES:
        sys.exit(f"error: there is no benchmark {name!r}: choose among {', '.join(NAMES)}.")
    importlib.import_module(f"benchmarks.{name}").main()
