"""Tables for those who deploy say what the results say."""

from dataclasses import replace

import pytest
from test_leaderboard import cells, content, result

from snnconv.results.hardware_tables import integers, ladders, quantized
from snnconv.results.records import Baseline, IntegerResult, Result


def stage(stages: list[str], scale: float, weights: str, **changes) -> Result:
    energy = {"int8": {"ann": 4e6 * scale, "quantized": {"2": 1.0}, "snn": {"1": 1e6 * scale, "2": 2e6 * scale}}}
    facts = {"stages": stages, "epochs": 2 * bool(stages), "parameters": 1000, "nonzero": int(1000 * scale), "bits": 8192 * 4,
             "macs": int(8e6 * scale), "accumulates": {"1": 1e6 * scale, "2": 3e6 * scale}, "energy": energy}  # fmt: skip
    curve = {"1": 0.5 * scale, "2": 0.75}
    return result("qcfs", snn_accuracy=curve, compression=facts, network={"weights": weights}, **changes)


def test_ladders_are_shares_of_the_network_that_they_begin_with():
    results = [
        stage([], 1.0, "a"),
        stage(["prune30"], 0.5, "b"),
        stage([], 1.0, "a"),
        stage(["sparse24"], 0.25, "c"),
        result("mse"),
    ]
    rows = cells(ladders(results))[1:]
    assert [row[0] for row in rows] == ["whole", "prune30", "sparse24"]  # the whole network once
    assert [row[1] for row in rows] == ["–", "2", "2"]
    assert cells(ladders(results))[0][8] == "M accumulates, T=2"
    assert rows[1][3:] == ["25.00", "75.00", "500 (50%)", "4", "4.00 (50%)", "1.50 (50%)", "1 / 2"]
    assert rows[2][-3:] == ["2.00 (25%)", "0.75 (25%)", "0.5 / 1"]


def test_ladders_of_several_seeds_say_which():
    """And each compares with where its own seed began, in whatever order they stand."""
    results = [
        stage([], 0.5, "a"), stage([], 1.0, "b", seed=1),
        stage(["sparse24"], 0.25, "c"), stage(["sparse24"], 0.25, "d", seed=1),
    ]  # fmt: skip
    rows = cells(ladders(results))
    assert [row[2] for row in rows] == ["seed", "0", "1", "0", "1"]
    assert [row[8] for row in rows] == ["M MACs", "4.00 (100%)", "8.00 (100%)", "2.00 (50%)", "2.00 (25%)"]
    assert "seed" not in ladders(results[::2])


def test_ladders_compare_at_a_time_that_all_have():
    short = stage(["sparse24"], 0.5, "b")
    short = replace(short, snn_accuracy={1: short.snn_accuracy[1]})
    del short.compression["accumulates"]["2"]
    table = cells(ladders([stage([], 1.0, "a"), short]))
    assert table[0][8] == "M accumulates, T=1"
    assert [row[8] for row in table[1:]] == ["1.00 (100%)", "0.50 (50%)"]
    assert table[2][4] == "–"
    with pytest.raises(ValueError, match=r"no result of scripts/compress\.py"):
        ladders([result("mse")])


def in_integers(bits: int, **changes) -> IntegerResult:
    return IntegerResult.from_dict({
        "accuracy": {"integer": {"4": 0.5, "8": 0.7}}, "membrane_bits": {"a": 14, "b": 17}, "weight_bytes": 2048.0,
        "float_bytes": 8192.0, "golden": {"images": 8, "differing_spikes": 0},
        "integer": {"bits": bits, "per_channel": True, "membrane_bits": None}, "weights": None, "seed": 0, **changes,
    })  # fmt: skip


def test_integers_stand_below_the_float_network():
    both = {"float": {"4": 0.51, "8": 0.71}, "integer": {"4": 0.5, "8": 0.7}}
    trained = {"bits": 2, "per_channel": True, "train": True}
    rows = cells(integers([in_integers(8, accuracy=both), in_integers(2, weights=trained)]))[1:]
    assert rows == [
        ["float", "float", "51.00", "71.00", "32", "8", "–"],
        ["int8, a scale for each channel", "float", "50.00", "70.00", "14–17", "2", "0 on 8 images"],
        ["ternary, a scale for each channel", "2 bits", "50.00", "70.00", "14–17", "2", "0 on 8 images"],
    ]


def test_integers_of_several_seeds_say_which():
    rows = cells(integers([in_integers(8, seed=1), in_integers(8)]))
    assert [row[2] for row in rows] == ["seed", "0", "1"]


def test_quantized_networks_stand_beside_the_spikes_of_as_many_levels():
    tables = {"int8": {"snn": {"3": 2e6}, "quantized": {"3": 0}, "ann": 0}}
    net = {"weights": "a"}
    spiking = result("qcfs", snn_accuracy={"3": 0.6}, explanation={"energy": {"tables": tables}}, network=net)
    other = result("burst", snn_accuracy={"3": 0.1}, network={"weights": "b"})
    base = content(network=net) | {
        "baseline": "ptq_static", "weight_bits": 2, "accuracy": 0.4, "size_bytes": 1024, "energy": {"int8": 3e6}
    }  # fmt: skip
    baselines = [Baseline.from_dict({**base, "activation_bits": bits}) for bits in (2, 3)]
    rows = cells(quantized(baselines, [other, spiking]))[1:]
    assert rows == [
        ["ptq_static", "2", "3", "40.00", "1", "7", "–", "3 / –"],
        ["ptq_static", "2", "2", "40.00", "1", "3", "60.00 (qcfs)", "3 / 2"],
    ]
