"""Run benchmarks by name, or all of those that time: ``python -m benchmarks [NAME ...]``.

``gpu`` stands alone, and takes what `benchmarks.gpu.run` says. Exit code: 1 when one of them says that something is not
as it should be (``faults``, ``gpu``), 2 when there is no GPU for ``gpu``, else 0.
"""

import importlib
import sys

TIMED = ("views", "reading", "checksums", "step", "small", "inference", "tools")
NAMES = (*TIMED, "faults")  # half an hour, about the alarms: only by name

if sys.argv[1:2] == ["gpu"]:
    sys.exit(importlib.import_module("benchmarks.gpu.run").main(sys.argv[2:]))
code = 0
for name in sys.argv[1:] or TIMED:
    if name not in NAMES:
        sys.exit(f"error: there is no benchmark {name!r}: choose among {', '.join(NAMES)}, gpu.")
    code = importlib.import_module(f"benchmarks.{name}").main() or code
sys.exit(code)
