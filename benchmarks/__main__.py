"""Run benchmarks by name, or all of those that time: ``python -m benchmarks [NAME ...]``.

Exit code: 1 when one of them says that something is not as it should be (``faults``), else 0.
"""

import importlib
import sys

TIMED = ("views", "reading", "step", "small", "inference", "tools")
NAMES = (*TIMED, "faults")  # half an hour, about the alarms: only by name

code = 0
for name in sys.argv[1:] or TIMED:
    if name not in NAMES:
        sys.exit(f"error: there is no benchmark {name!r}: choose among {', '.join(NAMES)}.")
    code = importlib.import_module(f"benchmarks.{name}").main() or code
sys.exit(code)
