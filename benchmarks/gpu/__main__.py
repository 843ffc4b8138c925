"""One promise in a process of its own: ``python -m benchmarks.gpu NAME DEVICE QUICK FOLDER``; see `run`."""

from __future__ import annotations

import json
import sys
import traceback
from dataclasses import asdict
from pathlib import Path

from .promise import Card, Found
from .run import FOUND
from .table import PROMISES

name, device, quick, folder = sys.argv[1:]
card = Card(device, quick == "True", Path(folder))
try:
    found = PROMISES[name].tried(card)
except Exception as error:
    traceback.print_exc()
    found = Found(False, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
(card.folder / FOUND).write_text(json.dumps(asdict(found)))
