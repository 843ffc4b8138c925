"""Configs as data: merged, walked, and asked for what they refer to."""

import yaml

from desd_components.runs.config import all_references, content, id_of, merged, place_of, references, walk

CONFIG = {"rate": 0.1, "train": {"handlers": [{"lr": "@rate"}, {"after": "$@train#steps + 1"}], "steps": 3}}


def test_later_files_win_and_the_metadata_of_monai_is_left_out(tmp_path):
    for name, text in (("a", {"rate": 1, "deep": {"x": 1}}), ("b", {"rate": 2, "deep#x": 5})):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(text))
    assert content(merged([tmp_path / "a.yaml", tmp_path / "b.yaml"])) == {"rate": 2, "deep": {"x": 5}}


def test_every_item_is_walked_the_outer_ones_first():
    ids = [id_of(place) for place, _ in walk(CONFIG)]
    assert ids[:4] == ["rate", "train", "train#handlers", "train#handlers#0"] and ids[-1] == "train#steps"
    assert len(ids) == 8 == len(set(ids))


def test_a_container_that_is_not_entered_is_an_item_itself():
    found = dict(walk(CONFIG, enters=lambda place, _: place != ("train", "handlers")))
    assert found["train", "handlers"] == CONFIG["train"]["handlers"] and ("train", "handlers", "0") not in found


def test_an_item_refers_by_both_of_monais_signs():
    assert references("$@a#b + @c::0") == references("$@a::b + @c#0") != []
    assert set(references("$@a#b + @c")) == {("a", "b"), ("c",)}
    assert references("%a#b") == [("a", "b")] == [place_of("a::b")]
    assert references("a text") == references(3) == []


def test_the_references_of_a_config_are_those_of_all_its_items():
    assert all_references(CONFIG) == {("rate",), ("train", "steps")}
