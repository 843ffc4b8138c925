"""The figure of the method: the file in the repository is what the code draws, and stands alone."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from desd_tools.method_figure import method_figure, method_svg

ROOT = Path(__file__).resolve().parents[2]


def test_the_figure_in_the_repository_is_the_one_that_the_code_draws(tmp_path):
    method_figure(str(tmp_path / "method.svg"))
    assert (tmp_path / "method.svg").read_bytes() == (ROOT / "docs" / "figures" / "method.svg").read_bytes()


def test_it_is_whole_xml_with_a_head_for_each_stage_and_words_for_who_cannot_see_it():
    root = ElementTree.fromstring(method_svg())
    words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert [f"head {stage}" for stage in (1, 2, 3, 4)] == [word for word in words if word.startswith("head ")]
    assert words.count("stage 4") == 2 and root[0].tag.endswith("title") and len(root[0].text) > 100


def test_every_color_has_a_counterpart_in_the_dark():
    light, dark = method_svg().split("@media (prefers-color-scheme: dark)")
    names = [set(re.findall(r"\.([a-z]+) \{", part)) for part in (light, dark.split("</style>")[0])]
    assert names[0] == names[1] != set()
