"""No setting is ignored: each one, changed, changes what a run records or is refused; a new one must be listed here."""

import logging
from pathlib import Path
from typing import Any

import pytest
from bundle_runs import ROOT
from knob_runs import Change, Same, knobs, outcome
from random_weights import write_encoder, write_model
from scan_files import write_json, write_pairs

PLACES = {"bundle_root", "output_dir", "cache_dir"}  # where things lie: what lies there is the same
GPU = "only a GPU shows it"
HU = {"intensity": "hu"}
WARMUP, LAYERS = {"preset": "encoder_warmup"}, {"preset": "layerwise_decay"}
RATES = {"learning_rate": 0.0, "final_learning_rate": 0.0}
STANDING = {**RATES, "max_epochs": 4, "handlers#early_stop#patience": 1}
TINY = {"depth": 10, "width": 4, "stem_kernel": 3, "stem_stride": 1, "stem_pool": False}
SLABS = {"train#dataset#slab_depth": 18}
SHORT = {"max_epochs": 1}
UNIFORM = {"max_epochs": 10}  # smoke.yaml learns nothing in so many steps, and the monitor says so

COMMON = {
    "plan": Change("auto"),  # refused, for the config gives every number
    "minutes": Change(0.01),
    "page": Change(True),
    "on_bad_volume": Change("skip"),
    "resume": Change("never", {}, earlier={"seed": 5}),
    "extend": Change("keep", {"max_epochs": 3}, earlier={}),
    "seed": Change(1),
    "device": Same("cpu:0", why=GPU),
    "max_epochs": Change(3),
    "batch_size": Change(1),
    "accumulation_steps": Change(2),
    "num_workers": Same(1, why="the speed of loading; draws are keyed by the sample"),
    "amp": Change(True),
    "cudnn_benchmark": Same(True, why=GPU),
    "compile": Change(True),  # by rounding; test_compile says by how much
    "val_interval": Change(2),
    "encoder": Change("SegResNet"),
    "in_channels": Change(2),
    "spacing": Change([2.0, 2.0, 2.0]),
    "intensity": Change("hu"),
    "hu_window": Change([-2.0, 2.0], HU),
    "dataset_dir": Change("OTHER"),
    "data_split": Change("SPLIT"),
    "learning_rate": Change(0.5),
    "warmup_steps": Change(0),
    # numbers that stand where they are used
    "cache#dtype": Change("float16"),
    "run_folder#save_interval": Change(2),
    "run_folder#save_minutes": Change(0, {**SHORT, "warmup_steps": 0}),
    "handlers#skip#max_skipped_steps": Change(0),
}
PRETRAIN = {
    **COMMON,
    "cache#dtype": Change("float32"),
    "found_scans#sections": Change(["train"], {"data_split": "SPLIT"}),
    "init_checkpoint": Change("ENCODER"),
    "on_collapse": Change("stop", UNIFORM),
    "view_size": Change([16, 16, 20]),
    "num_prototypes": Change(32),
    "distillation_def#student_stages": Change([2, 4], {"loss#stage_weights": [0.5, 0.5]}),
    "distillation_def#teacher_target": Change("same_stage"),
    "teacher_momentum": Change(0.9),
    "frozen_prototype_epochs": Change(0),
    "final_learning_rate": Change(0.2),
    "run_folder#record_interval": Change(2),
    "validate#dataset#data": Change("$@train#dataset#data[:2]"),
    "train#dataset#slab_depth": Change(18),
    "train#dataset#slab_stride": Change(2, SLABS),
    "cache#trim_wider_than": Change(10),
    "samples_per_epoch": Change(8),
    "train#dataset#context_scale": Change([1.0, 1.2]),
    "network_def#scratch_architecture": Change(TINY),
    "distillation_def#head_hidden": Change(16),
    "distillation_def#head_bottleneck": Change(8),
    "distillation_def#head_norm": Change("none"),
    "loss#stage_weights": Change([0.4, 0.3, 0.2, 0.1]),
    "loss#student_temperature": Change(0.2),
    "loss#teacher_temperature": Change(0.05),
    "loss#center_momentum": Change(0.5),
    "loss#centering": Change("sinkhorn"),
    "loss#terms": Change([{"_target_": "desd_components.CodingRateTerm", "weight": 0.4}]),
    "handlers#temperature#vc_kwargs#max_value": Change(0.05),
    "handlers#temperature#vc_kwargs#step_max_value": Change(3),
    "distillation_def#dense_target": Change("deepest", configs="train small smoke"),
}
FINETUNE = {
    **COMMON,
    "encoder_checkpoint": Change("ENCODER"),
    "class_names": Change(["one"]),
    "val_fraction": Change(0.25),
    "num_labels": Change(1),
    "allow_other_preprocessing": Change(True, {**HU, "encoder_checkpoint": "ENCODER"}),
    "roi_size": Change([16, 16, 20]),
    "rotation": Change([0.9, 0.9, 0.9]),
    "single": Change([1]),
    "activation": Change("softmax"),
    "regions": Change([[1, 2], [2]]),
    "preset": Change("layerwise_decay"),
    "samples_per_epoch": Change(8),
    "final_learning_rate": Change(1e-4),
    "train#flip_axes": Change([0, 1, 2]),
    "train#augmentation_probability": Change(1.0),
    "handlers#early_stop#patience": Change(2, STANDING),
    "network_def#encoder#architecture": Change({"width": 4}),
    "network_def#encoder#scratch_architecture": Change(TINY),
    "network_def#decoder_width": Change(4),
    "network_def#decoder_norm": Change("group"),
    "optimizer#params#frozen_steps": Change("$@steps.share(0.5)", WARMUP),
    "optimizer#params#decay": Change(0.5, LAYERS),
    "optimizer#params#weight_decay": Change(0.5),
    "validate#inferer#inferer#sw_batch_size": Same(1, why="speed and memory of validation"),
    "validate#inferer#inferer#overlap": Change(0.75),
}
INFERENCE = {
    "dataset_dir": Change("OTHER"),
    "device": Same("cpu:0", why=GPU),
    "page": Change(False),
    "num_workers": Same(1, why="the speed of loading"),
}
FEATURES = {
    **INFERENCE,
    "feature_maps": Change(True),
    "overlap": Change(0.75),
    "sw_batch_size": Same(1, why="speed and memory"),
}
SEGMENT = {
    **INFERENCE,
    "data_split": Change("SPLIT"),
    "data_sections": Change(["train"], {"data_split": "SPLIT"}),
    "in_channels": Change(2),
    "class_names": Change(["spleen", "liver"]),
    "spacing": Change([2.0, 2.0, 2.0]),
    "intensity": Change("hu"),
    "hu_window": Change([-2.0, 2.0]),
    "roi_size": Change([16, 16, 20]),
    "activation": Change("softmax"),
    "regions": Change([[1, 2], [2]]),
    "displayable_configs": Change({"overlap": 0.75, "sw_batch_size": 4}),
    "stitch_device": Same("cpu:0", why=GPU),
    "flip_axes": Change([0]),
    "save_probabilities": Change(True),
    "dicom_seg": Same(True, why="these scans are NIfTI; test_scans_page has a series"),
    "outlines": Change(True),
    "windows#mode": Change("constant"),
    "separate_folder": Change(True),
    "amp": Change(True),
}
TABLES = {
    ("desd_pretrain", "train"): PRETRAIN,
    ("desd_seg_finetune", "train"): FINETUNE,
    ("desd_pretrain", "inference"): FEATURES,
    ("desd_seg_finetune", "inference"): SEGMENT,
}
#: in the normal suite; all of them take some minutes
SAMPLE = {
    ("desd_pretrain", "train"): {"train#dataset#slab_stride", "encoder", "loss#centering", "num_workers"},
    ("desd_seg_finetune", "train"): {"encoder", "optimizer#params#decay", "regions", "extend"},
    ("desd_pretrain", "inference"): {"overlap"},
    ("desd_seg_finetune", "inference"): {"data_sections", "separate_folder"},
}
CASES = [
    pytest.param(*place, knob, marks=[] if knob in SAMPLE[place] else pytest.mark.soak)
    for place, table in TABLES.items()
    for knob in table
]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """What the words in capitals stand for: scans, other scans, a split, weights."""
    folder = tmp_path_factory.mktemp("knobs")
    names = [f"case_{number}" for number in range(4)]
    write_pairs(folder / "scans", names, shape=(20, 22, 24))
    write_pairs(folder / "other", ["a", "b", "c"], shape=(22, 20, 20))
    write_json(folder / "split.json", {"train": names[2:], "validation": names[:1], "test": names[1:2]})
    write_model(folder / "model.pt", write_encoder(folder / "encoder.pt"))
    files = {"SCANS": "scans", "OTHER": "other", "SPLIT": "split.json", "ENCODER": "encoder.pt", "MODEL": "model.pt"}
    return {**{word: str(folder / name) for word, name in files.items()}, "CACHE": str(folder / "cache")}


@pytest.fixture(autouse=True)
def _quietly_from_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


SCANS = {"cache_dir": "CACHE", "dataset_dir": "SCANS"}
BASE: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {
    ("desd_pretrain", "train"): ("train smoke", SCANS),
    ("desd_seg_finetune", "train"): ("train smoke", {**SCANS, "class_names": ["one", "two"], "val_fraction": 0.5}),
    ("desd_pretrain", "inference"): ("inference", {"dataset_dir": "SCANS/imagesTr", "checkpoint": "ENCODER"}),
    ("desd_seg_finetune", "inference"): ("inference", {"dataset_dir": "SCANS/imagesTr", "checkpoint": "MODEL"}),
}
_known: dict[str, dict[str, Any]] = {}


def result(place: tuple[str, str], folder: Path, places: dict[str, str], change: Change, **more: Any) -> dict[str, Any]:
    """The outcome of the base run with a change's context, and `more`; the same run is made once."""
    configs, base = BASE[place]

    def settings(*parts: dict[str, Any]) -> dict[str, Any]:
        return {key: _placed(value, places) for part in (base, *parts) for key, value in part.items()}

    configs = change.configs or configs
    key = repr((place, configs, change.context, change.earlier, more))
    if key not in _known:
        kind = "infer" if place[1] == "inference" else "train"
        if change.earlier is not None:
            outcome(place[0], configs, folder, settings(change.earlier), kind)
        _known[key] = outcome(place[0], configs, folder, settings(change.context, more), kind)
    return _known[key]


def _placed(value: Any, places: dict[str, str]) -> Any:
    word, slash, rest = str(value).partition("/")
    return places[word] + slash + rest if word in places else value


@pytest.mark.parametrize("place", TABLES, ids=" ".join)
def test_every_knob_is_listed(place):
    assert knobs(*place) - PLACES == {name for name in TABLES[place] if "#" not in name}


@pytest.mark.parametrize(("bundle", "config", "knob"), CASES)
def test_a_knob_changes_the_run_or_is_refused(places, tmp_path, bundle, config, knob):
    place = bundle, config
    change = TABLES[place][knob]
    before = result(place, tmp_path / "before", places, change)
    after = result(place, tmp_path / "after", places, change, **{knob: change.value})
    if isinstance(change, Same):
        assert after == before, change.why
    else:
        assert after != before
