"""A bundle is found from any working directory, by asking who reads its configs."""

import shutil

import pytest
from bundle_runs import ROOT
from monai.bundle import ConfigWorkflow

from desd_components import bundle_file, run_or_bundle

CONFIG = {"bundle_root": ".", "file": "$desd_components.bundle_file(@bundle_root, 'models/model.pt')"}


@pytest.fixture
def bundle(tmp_path):
    """The least that is a bundle: configs beside metadata."""
    configs = tmp_path / "some_bundle" / "configs"
    configs.mkdir(parents=True)
    shutil.copyfile(ROOT / "bundles" / "desd_pretrain" / "configs" / "metadata.json", configs / "metadata.json")
    lines = [f"{name}: {value}" for name, value in CONFIG.items()]
    (configs / "train.yaml").write_text("\n".join(["imports: [$import desd_components]", *lines]))
    return configs.parent


def found(bundle, **settings):
    workflow = ConfigWorkflow(str(bundle / "configs" / "train.yaml"), logging_file=False, **settings)
    workflow.initialize()
    return workflow.parser.get_parsed_content("file")


@pytest.mark.parametrize("root", [".", "bundles/some_bundle"])
def test_the_bundle_of_the_config_is_meant_when_a_workflow_asks(bundle, tmp_path, monkeypatch, root):
    monkeypatch.chdir(tmp_path)
    path = bundle / "configs" / "train.yaml"
    config = path.read_text() + "\ninitialize: ['$desd_components.run_or_bundle(@file, @file)']"
    path.write_text(config)
    workflow = ConfigWorkflow(str(path), logging_file=False, bundle_root=root)
    assert workflow.initialize() == [str(bundle / "models" / "model.pt")]


def test_a_root_that_is_given_is_taken_as_it_is(bundle, tmp_path):
    assert found(bundle, bundle_root=str(tmp_path / "other")) == str(tmp_path / "other" / "models" / "model.pt")


def test_outside_of_a_config_a_dot_is_the_working_directory():
    assert bundle_file(".", "models/model.pt") == "models/model.pt"


def test_the_run_s_own_weights_come_first_and_the_log_says_which(tmp_path, caplog):
    caplog.set_level("INFO")
    own = tmp_path / "model.pt"
    assert run_or_bundle(own, "bundle.pt") == "bundle.pt"
    assert "the weights are the bundle's own, bundle.pt" in caplog.text
    own.write_bytes(b"")
    assert run_or_bundle(own, "bundle.pt") == str(own)
