"""The README answers a visitor in order; its commands, and all of the main job, run on tiny volumes."""

import re

import pytest
from bundle_runs import ROOT, succeed
from page_commands import FIRST_PAGES, bundle_commands, make_world, shell_lines, short, smoke_command

CONFIGS = "bundles/{}/configs/{}.yaml"
README = (ROOT / "README.md").read_text()


def test_the_readme_is_short_and_says_linux_on_the_first_screen():
    lines = README.splitlines()
    assert len(lines) <= 130
    assert "Linux" in " ".join(lines[:25])


def test_the_readme_sets_up_with_two_commands_and_then_takes_three_steps():
    first, second, *others = shell_lines("README.md")
    assert (first, second) == ("make demo", "make test")
    assert others[1::2] == bundle_commands("README.md")  # beside each short form
    assert [line.split()[:2] for line in others[::2]] == [
        ["desd", name] for name in ("pretrain", "finetune", "segment")
    ]
    assert [re.findall(r"(desd_\w+)/configs/(train|inference)", line) for line in others[1::2]] == [
        [("desd_pretrain", "train")],
        [("desd_seg_finetune", "train")],
        [("desd_seg_finetune", "inference")],
    ]


def test_the_page_in_chinese_shows_the_same_commands_and_links():
    chinese = (ROOT / "README.zh.md").read_text()
    assert shell_lines("README.zh.md") == shell_lines("README.md")
    pages = [set(re.findall(r"\]\(((?:docs|results)/[^)]+)\)", text)) for text in (README, chinese)]
    assert pages[0] == pages[1]


def test_the_first_pages_show_the_main_job_in_full():
    commands = "\n".join(bundle_commands(*FIRST_PAGES))
    for bundle in ("desd_pretrain", "desd_seg_finetune"):
        for config in ("train", "small", "evaluate", "inference", "multi_gpu_train"):
            assert CONFIGS.format(bundle, config) in commands, (bundle, config)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Tiny data under the names that the pages use, and one place for all runs."""
    return make_world(tmp_path_factory.mktemp("readme"))


LINES = bundle_commands(*FIRST_PAGES)


@pytest.mark.parametrize("line", LINES, ids=short)
def test_a_command_of_the_first_pages_runs(line, world):
    command = smoke_command(line, world)
    succeed(command.run(own_process=line == LINES[0]))
    assert any(command.settings["output_dir"].iterdir())
