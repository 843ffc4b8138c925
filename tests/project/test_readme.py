"""Every command of the README runs, on tiny volumes, with the smoke overlay laid over its configs."""

import pytest
from bundle_runs import succeed
from page_commands import bundle_commands, make_world, short, smoke_command

CONFIGS = "bundles/{}/configs/{}.yaml"


def test_the_readme_shows_the_main_job_in_full():
    commands = "\n".join(bundle_commands("README.md"))
    for bundle in ("desd_pretrain", "desd_seg_finetune"):
        for config in ("train", "small", "evaluate", "inference", "multi_gpu_train"):
            assert CONFIGS.format(bundle, config) in commands, (bundle, config)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Tiny data under the names that the README uses, and one place for all runs."""
    return make_world(tmp_path_factory.mktemp("readme"))


LINES = bundle_commands("README.md")


@pytest.mark.parametrize("line", LINES, ids=short)
def test_a_command_of_the_readme_runs(line, world):
    command = smoke_command(line, world)
    succeed(command.run(own_process=line == LINES[0]))
    assert any(command.settings["output_dir"].iterdir())
