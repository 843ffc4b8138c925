"""One version: that of the package, of both bundles, of their newest changes, and of the project file."""

import json
import tomllib

import pytest
from bundle_runs import ROOT

from desd_components import __version__


@pytest.mark.parametrize("bundle", ["desd_pretrain", "desd_seg_finetune"])
def test_a_bundle_has_the_version_of_the_package_and_says_what_is_new_in_it(bundle):
    metadata = json.loads((ROOT / "bundles" / bundle / "configs" / "metadata.json").read_text())
    newest = max(metadata["changelog"], key=lambda version: [int(part) for part in version.split(".")])
    assert metadata["version"] == newest == __version__


def test_the_project_file_has_the_version_of_the_package():
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == __version__
