"""Frozen encoders as tables: a row for each encoder, a column for each stage."""

from desd_tools.studies.curve.tables import probe_tables


def figures(trained, difference):
    interval = [difference - 0.01, difference + 0.01]
    return {"trained": trained, "untrained": trained - difference, "difference": difference, "interval_95": interval}


def summary():
    stages = {"stage_2": figures(0.5, 0.2), "stage_1": figures(0.3, 0.1)}
    probe = {"pretraining": "ours", "seed": 1, "scores": {"dense_dice": stages}, "covers": "volumes."}
    row = {"pretraining": "ours", "against": "deep", "stage": "stage_1", "difference": 2.04, "seeds": [2, 1]}
    return {"probes": [probe], "probe_differences": [row | {"interval_95": [1.0, 3.0]}]}


def test_an_encoder_stands_under_the_untrained_with_what_it_gained_at_each_stage():
    table = probe_tables(summary())[1]
    assert table.head == ["encoder", "seed", "stage 1", "stage 2"]
    assert table.rows[0] == ["untrained", "", "0.200", "0.300"]
    assert table.rows[1] == ["ours", "1", "0.300 (+0.100: +0.090 to +0.110)", "0.500 (+0.200: +0.190 to +0.210)"]


def test_two_pre_trainings_are_compared_in_one_row():
    table = probe_tables(summary())[0]
    assert table.rows == [["ours − deep", "2 and 1", "+2.0 (+1.0 to +3.0)"]]


def test_a_stage_that_was_not_probed_is_a_dash_and_no_probe_no_table():
    found = summary()
    found["probes"].append({**found["probes"][0], "scores": {"dense_dice": {"stage_3": figures(0.4, 0.1)}}})
    assert probe_tables(found)[1].rows[2] == ["ours", "1", "–", "–", "0.400 (+0.100: +0.090 to +0.110)"]
    assert probe_tables({"probes": [], "probe_differences": []}) == []
