"""Run benchmarks by name, or all of those that time: ``python -m benchmarks [NAME ...]``.

The rows of `benchmarks.table`, ``checksums``, ``adapters`` and ``tools``. ``gpu`` stands alone, and takes what
`benchmarks.gpu.run` says. Exit code: 1 when one of them says that something is not as it should be (``faults``,
``gpu``), 2 when there is no GPU for ``gpu``, else 0.
"""

import importlib
import sys

from benchmarks import table

OTHERS = ("checksums", "adapters", "tools", "faults")  # faults: half an hour, about the alarms; only by name

if sys.argv[1:2] == ["gpu"]:
    sys.exit(importlib.import_module("benchmarks.gpu.run").main(sys.argv[2:]))
names = sys.argv[1:] or [*table.ROWS, *OTHERS[:3]]
if unknown := [name for name in names if name not in (*table.ROWS, *OTHERS)]:
    sys.exit(f"error: there is no benchmark {unknown[0]!r}: choose among {', '.join([*table.ROWS, *OTHERS])}, gpu.")
code = table.main([name for name in names if name in table.ROWS])
for name in names:
    if name in OTHERS:
        code = importlib.import_module(f"benchmarks.{name}").main() or code
sys.exit(code)
