"""Publishing fills a bundle with weights; packing makes one that stands alone."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
import venv
import zipfile

import pytest
import yaml
from bundle_runs import ENVIRONMENT, ROOT, error_line
from monai.bundle import ConfigParser

from desd_components import (
    ResNet3DEncoder,
    SegmentationNetwork,
    UserError,
    encoder_manifest,
    preprocessing_settings,
    read_manifest,
    save_weights,
    segmentation_manifest,
)
from desd_components.base.version import __version__
from desd_tools.pack.pack import pack
from desd_tools.pack.pack_checks import check_commands, check_consumers, write_volumes
from desd_tools.pack.pack_rules import stated_versions
from desd_tools.pack.publish import publish

SETTINGS = preprocessing_settings(None, "zscore", [-1024.0, 1024.0])


def small(bundle):
    """The overlay for small data, as it stands in the file."""
    return ConfigParser.load_config_file(str(ROOT / "bundles" / bundle / "configs" / "small.yaml"))


def architecture(bundle):
    return small(bundle)["encoder" if bundle == "desd_pretrain" else "scratch_architecture"]


def make_run(bundle, folder):
    """Weights of random numbers, as a run of the small recipe would leave them."""
    encoder = ResNet3DEncoder(**architecture(bundle))
    if bundle == "desd_pretrain":
        save_weights(encoder, folder / "encoder.pt", encoder_manifest(encoder, SETTINGS, [24, 24, 24], 3, "hash"))
        return encoder
    classes, window = ["background", "left", "right"], small(bundle)["roi_size"]
    network = SegmentationNetwork(encoder, len(classes), decoder_width=small(bundle)["decoder_width"])
    manifest = segmentation_manifest(network, classes, "sigmoid", False, SETTINGS, window)
    save_weights(network, folder / "model.pt", manifest)
    return network


@pytest.fixture(scope="module", params=["desd_pretrain", "desd_seg_finetune"])
def published(request, tmp_path_factory):
    """A copy of a bundle, with weights of random numbers."""
    folder = tmp_path_factory.mktemp("pack")
    shutil.copytree(ROOT / "bundles" / request.param, folder / request.param)
    make_run(request.param, folder / "run")
    publish(str(folder / "run"), str(folder / request.param))
    return folder / request.param


@pytest.fixture(scope="module")
def packed(published):
    pack(str(published), output=str(published.parent / "zoo"))
    return published.parent / "zoo" / published.name


@pytest.fixture
def copied(tmp_path):
    """A bundle to be spoilt."""
    return shutil.copytree(ROOT / "bundles" / "desd_pretrain", tmp_path / "desd_pretrain")


@pytest.fixture
def one_packed(copied, tmp_path):
    pack(str(copied), output=str(tmp_path / "zoo"))
    return tmp_path / "zoo" / copied.name


def edit_metadata(bundle, **changes):
    path = bundle / "configs" / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_packed_bundle_has_the_zoo_s_files(packed):
    bundle = packed
    wanted = {"LICENSE", "docs/README.md", "docs/data_license.txt", "models/model.pt", "models/model.json"}
    wanted |= {f"configs/{name}.json" for name in ("metadata", "train", "inference", "evaluate", "multi_gpu_train")}
    wanted |= {"configs/logging.conf", "desd_components/__init__.py"}
    assert wanted <= {str(path.relative_to(bundle)) for path in bundle.rglob("*")}
    assert not (bundle / "desd_components" / "tools").exists()


def test_train_json_is_the_small_recipe_and_the_published_one_lies_beside_it(packed):
    bundle = packed
    key = "encoder" if bundle.name == "desd_pretrain" else "scratch_architecture"
    small = json.loads((bundle / "configs" / "train.json").read_text())
    published = json.loads((bundle / "configs" / "train_published.json").read_text())
    assert small[key] == architecture(bundle.name)
    assert published[key]["depth"] == 50


def test_consumers_use_it_where_nothing_else_can_be_imported(packed, tmp_path):
    """The checks stand in `pack_consumers`: load, exporters, checkers, properties, two federated rounds."""
    pytest.importorskip("jsonschema")
    classes = read_manifest(packed / "models" / "model.pt").get("class_names", ["background", "one", "two"])
    check_consumers(packed, write_volumes(tmp_path / "data", classes))
    assert not list(packed.rglob("__pycache__"))


@pytest.mark.soak
def test_training_evaluation_and_inference_run_from_a_foreign_folder(packed, tmp_path):
    pytest.importorskip("mlflow")
    classes = read_manifest(packed / "models" / "model.pt").get("class_names", ["background", "one", "two"])
    check_commands(packed, write_volumes(tmp_path / "data", classes))


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_the_packages_that_its_metadata_pin_are_all_that_it_needs(packed, tmp_path):
    """A person's way after a download: an environment of its own, with the pinned packages and nothing else."""
    pinned = stated_versions(json.loads((packed / "configs" / "metadata.json").read_text()))
    venv.create(tmp_path / "fresh", with_pip=True)
    python = tmp_path / "fresh" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", *(f"{name}=={version}" for name, version in pinned.items())]
    subprocess.run(install, check=True, timeout=900)
    classes = read_manifest(packed / "models" / "model.pt").get("class_names", ["background", "one", "two"])
    check_commands(packed, write_volumes(tmp_path / "data", classes), python, tracking=False)


def test_a_failing_check_is_named_with_its_last_words(one_packed, tmp_path):
    pytest.importorskip("jsonschema")
    edit_metadata(one_packed, version=7)
    with pytest.raises(UserError, match=r"check 'metadata_fit_the_schema' fails: .*schema"):
        check_consumers(one_packed, write_volumes(tmp_path / "data", ["background", "left"]))


def test_one_bundle_takes_at_most_ten_seconds(copied, tmp_path):
    begun = time.process_time()  # of one core, whatever else the machine does
    pack(str(copied), output=str(tmp_path / "zoo"))
    assert time.process_time() - begun < 10


def test_the_same_sources_make_the_same_bytes_under_sorted_names(packed, published, tmp_path):
    pack(str(published), output=str(tmp_path))
    archive = tmp_path / f"{published.name}.zip"
    assert archive.read_bytes() == packed.with_name(archive.name).read_bytes()
    names = zipfile.ZipFile(archive).namelist()
    assert names == sorted(names)
    assert all(name.startswith(f"{published.name}/") for name in names)


def test_another_version_of_the_package_is_refused_in_one_line(one_packed, tmp_path):
    other = shutil.copytree(one_packed / "desd_components", tmp_path / "installed" / "desd_components")
    code = (other / "__init__.py").read_text()
    (other / "__init__.py").write_text(code.replace('__version__ = "', '__version__ = "9.'))
    command = [
        sys.executable,
        "-m",
        "monai.bundle",
        "run",
        "--config_file",
        str(one_packed / "configs" / "inference.json"),
    ]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(tmp_path / "installed")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    line = error_line(done)
    assert "\n" not in line
    assert f"was packed with desd_components {__version__}, but 9.{__version__} was found first" in line


def test_a_large_file_is_listed_with_its_hash_or_refused_without_an_address(copied, tmp_path):
    with open(copied / "models" / "large.bin", "wb") as file:
        file.truncate(26 * 1024 * 1024)
    with pytest.raises(UserError, match=r"models/large\.bin: larger than 25 MB.*--url"):
        pack(str(copied), output=str(tmp_path / "zoo"))
    pack(str(copied), output=str(tmp_path / "zoo"), url="https://example.org/bundles/")
    (entry,) = yaml.safe_load((tmp_path / "zoo" / copied.name / "large_files.yml").read_text())["large_files"]
    assert entry["url"] == f"https://example.org/bundles/{copied.name}/models/large.bin"
    assert entry["hash_type"] == "sha256"
    assert entry["hash_val"] == hashlib.sha256((copied / "models" / "large.bin").read_bytes()).hexdigest()


def without(bundle, name):
    (bundle / name).unlink()


def append(bundle, name, text):
    with open(bundle / name, "a") as file:
        file.write(text)


RULES = {
    "files": (lambda b: without(b, "docs/data_license.txt"), r"without docs/data_license\.txt"),
    "metadata fields": (lambda b: edit_metadata(b, **{"version": "1.0"}) or drop(b, "copyright"), "copyright absent"),
    "changelog": (lambda b: edit_metadata(b, version="7.0.0"), "no entry for version 7.0.0"),
    "exact versions": (lambda b: edit_metadata(b, pytorch_version="2.13.0+cpu"), "torch is '2.13.0\\+cpu'"),
    "no optional packages": (lambda b: edit_metadata(b, optional_packages_version={}), "Name all as required"),
    "package pins": (lambda b: edit_metadata(b, required_packages_version={}), "fire, which .* needs"),
    "README sections": (lambda b: (b / "docs" / "README.md").write_text("# DeSD\n"), "no heading has Description"),
    "no personal path": (
        lambda b: append(b, "docs/README.md", "see /home/someone/data\n"),
        r"README\.md:\d+.*/home/some",
    ),
    "metadata fit weights": (lambda b: rename_channel(b), "other channels"),
}


def drop(bundle, key):
    path = bundle / "configs" / "metadata.json"
    content = json.loads(path.read_text())
    del content[key]
    path.write_text(json.dumps(content))


def rename_channel(bundle):
    content = json.loads((bundle / "configs" / "metadata.json").read_text())
    content["network_data_format"]["inputs"]["image"]["channel_def"]["0"] = "scan"
    edit_metadata(bundle, network_data_format=content["network_data_format"])


@pytest.mark.parametrize("rule", RULES)
def test_a_bundle_that_breaks_a_rule_is_refused_with_rule_and_place(rule, copied, tmp_path):
    spoil, words = RULES[rule]
    spoil(copied)
    with pytest.raises(UserError, match=words) as refused:
        pack(str(copied), output=str(tmp_path / "zoo"))
    assert f"rule '{rule}'" in str(refused.value)
    assert str(copied.name) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_number_that_yaml_reads_as_text_is_refused(copied, tmp_path):
    append(copied, "configs/small.yaml", "weight_decay: 1e-2\n")
    with pytest.raises(UserError, match=r"train: weight_decay is the text '1e-2'.*1\.0e-4"):
        pack(str(copied), output=str(tmp_path / "zoo"))


def test_packed_configs_import_nothing_of_ours(packed):
    """An import would be tried, in vain, before the folder of the bundle is known."""
    for path in (packed / "configs").glob("*.json"):
        text = path.read_text()
        assert "$import desd_components" not in text
        assert not re.search(r"\$[^\"]*(?<![@\w.'])desd_components\.", text), path.name


def test_weights_of_the_other_kind_are_not_published(packed, tmp_path):
    bundle = packed
    other = {"desd_pretrain": "desd_seg_finetune", "desd_seg_finetune": "desd_pretrain"}[bundle.name]
    make_run(other, tmp_path / "run")
    with pytest.raises(UserError, match="holds weights of kind"):
        publish(str(tmp_path / "run"), str(bundle))


def test_a_folder_without_weights_or_without_configs_is_refused(packed, tmp_path):
    bundle = packed
    with pytest.raises(UserError, match="neither a weights file nor a run's folder"):
        publish(str(tmp_path), str(bundle))
    make_run(bundle.name, tmp_path / "run")
    with pytest.raises(UserError, match="not a bundle"):
        publish(str(tmp_path / "run"), str(tmp_path))


def test_a_bundle_without_weights_is_not_packed(packed, tmp_path):
    bundle = packed
    shutil.copytree(ROOT / "bundles" / bundle.name, tmp_path / bundle.name, ignore=shutil.ignore_patterns("model.pt"))
    with pytest.raises(UserError, match=r"rule 'files' fails: without models/model\.pt.*publish"):
        pack(str(tmp_path / bundle.name), output=str(tmp_path / "zoo"))
