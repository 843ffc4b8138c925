"""One version: the package's, which every other file that names one repeats."""

import json
import re

import pytest
import yaml
from bundle_runs import ROOT

from desd_components.base.version import __version__


def released(text: str) -> str:
    """The newest version of the change log that has a date."""
    return re.findall(r"^## \[(\d[^\]]*)\] - \d{4}-\d\d-\d\d$", text, flags=re.M)[0]


def newest_change(text: str) -> str:
    return max(json.loads(text)["changelog"], key=lambda version: [int(part) for part in version.split(".")])


METADATA = [f"bundles/{name}/configs/metadata.json" for name in ("desd_pretrain", "desd_seg_finetune")]
REPEATED = {
    "CHANGELOG.md": [released],
    "CITATION.cff": [lambda text: yaml.safe_load(text)["version"]],
    **{path: [lambda text: json.loads(text)["version"], newest_change] for path in METADATA},
}


@pytest.mark.parametrize("path", REPEATED)
def test_a_file_that_repeats_the_version_says_that_of_the_package(path):
    text = (ROOT / path).read_text()
    assert [said(text) for said in REPEATED[path]] == [__version__] * len(REPEATED[path])
