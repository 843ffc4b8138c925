"""The tests themselves: what they need."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import packages_distributions

from bundle_runs import ENVIRONMENT, ROOT

COLLECT = """
import sys
import pytest

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hide())
sys.exit(pytest.main(["--collect-only", "-q", "-W", "error::pytest.PytestConfigWarning", "-p", "no:cacheprovider"]))
"""


def listed(file: str) -> set[str]:
    names = re.findall(r"^[\w-]+", (ROOT / file).read_text(), flags=re.M)
    return {name.lower() for name in names} - {"pillow"}  # comes with matplotlib


def test_all_tests_are_collected_where_nothing_but_requirements_txt_is_installed():
    optional = listed("requirements-dev.txt") - listed("requirements.txt")
    hidden = {
        module for module, owners in packages_distributions().items() if optional & {name.lower() for name in owners}
    }
    assert {"pydicom", "SimpleITK", "pytest_timeout", "xdist"} <= hidden
    command = [sys.executable, "-c", f"HIDDEN = {sorted(hidden)}\n{COLLECT}"]
    environment = {**ENVIRONMENT, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    told = re.findall(r"^SKIPPED [^:]*:\d+: (.*)$", done.stdout, flags=re.M)
    assert told and all("is not installed" in reason for reason in told)
