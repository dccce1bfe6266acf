"""Reports of a run: files with stable names, keys and numbers."""

import csv
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from matplotlib import image
from omegaconf import OmegaConf
from rich.console import Console
from test_leaderboard import result

from snnconv.conversion.methods.qcfs import convert
from snnconv.nn.activations.qcfs import QCFS
from snnconv.results.figures import plot_curves
from snnconv.results.report import report
from snnconv.results.summary import NOT_OF_A_METHOD, as_csv, method_settings, shown_timesteps, table_rows, title_of
from snnconv.runtime.tracking import Jsonl, Patient, Tracker
from snnconv.spiking.accuracy import accuracy_over_time
from snnconv.spiking.curve import Curve
from snnconv.spiking.latency import Latency
from snnconv.spiking.measured import Measured
from snnconv.spiking.neurons.integrate_fire import IntegrateFire

PROMISED = {
    "ann_accuracy", "ann_relu_accuracy", "snn_accuracy", "method", "levels", "timesteps", "warmup", "latency", "model", "data",
    "images_tested", "seed", "device", "precision", "neuron_implementation", "convolutions", "firing_rate", "wall_seconds",
    "versions", "commit", "command",
}  # fmt: skip


@pytest.fixture
def snn(exact_network):
    return convert(exact_network("plain"), [], neuron=IntegrateFire)


@pytest.fixture
def run(open_tiny_run):
    return open_tiny_run("run", "levels=4", "timesteps=6", "seed=3")


@pytest.fixture
def curve(snn, tiny_batches) -> Curve:
    return accuracy_over_time(snn, tiny_batches(11, 4), 6)


def test_result_json_keeps_its_promise(run, snn, curve):
    returned = report(run, snn, curve, Measured(0.875))
    result = json.loads((run.folder / "result.json").read_text())
    assert result == returned.as_dict()
    assert set(result) >= PROMISED
    assert list(result["snn_accuracy"]) == ["1", "2", "3", "4", "5", "6"]
    assert all(0 <= value <= 1 for value in result["snn_accuracy"].values())
    assert (result["ann_accuracy"], result["timesteps"], result["images_tested"], result["seed"]) == (0.875, 6, 11, 3)
    assert (result["model"], result["data"], result["method"], result["levels"]) == ("mlp", "synthetic", "qcfs", 4)
    assert (result["device"], result["precision"], result["compile"]) == ("cpu", "float32", False)
    assert result["latency"]["needs_training"] == "activation"
    assert set(result["wall_seconds"]) == {"data", "check", "train", "convert", "evaluate", "explain"}
    assert 0 < result["firing_rate"]["mean"] < 1
    assert len(result["firing_rate"]["layers"]) == 2
    assert result["settings"] == {"neuron": "IntegrateFire", "neuron.v_initial": 0.5}
    assert result["network"] is None  # no network was saved


def test_training_in_an_earlier_run_counts_as_conversion(run, snn, curve):
    snn.spent = 1000.0
    assert 1000 <= report(run, snn, curve, Measured(0.875)).wall_seconds["convert"] < 1000 + 60


def test_the_csv_is_the_curve(run, snn, curve):
    report(run, snn, curve, Measured(0.875))
    with (run.folder / "accuracy_vs_timesteps.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["timesteps"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [float(row["accuracy"]) for row in rows] == list(curve.accuracy.values())
    assert {float(row["ann_accuracy"]) for row in rows} == {0.875}


def test_the_picture_is_one(run, snn, curve):
    report(run, snn, curve, Measured(0.875))
    height, width, _ = image.imread(run.folder / "accuracy_vs_timesteps.png").shape
    assert width > height > 400


def test_rows_and_csv_by_hand():
    rows = table_rows({1: 0.5, 4: 0.75}, ann_accuracy=1.0)
    assert as_csv(rows) == "timesteps,accuracy,ann_accuracy,gap\n1,0.5,1.0,0.5\n4,0.75,1.0,0.25\n"


def test_settings_are_the_methods_own_and_plain():
    """Rows of a leaderboard are told apart by them, so what differs between seeds and machines must not be there."""
    rule = {"_target_": "snnconv.conversion.rules.percentile", "_partial_": True, "percent": 99.9}
    base = {
        "_target_": "snnconv.conversion.methods.srp.convert",
        "_partial_": True,
        "warmup": 4,
        "simulate": {"chunk": 8},
    }
    own = {"_target_": "x.convert", "_partial_": True, "rule": rule, "base": base, "gamma": 5, "per_channel": None}
    elsewhere = {
        "simulate": {"chunk": 8},
        "seed": 3,
        "data": {"root": "/somewhere"},
        "save": "a.pt",
        "precision": "bf16",
    }
    assert method_settings(own | elsewhere) == {
        "rule": "percentile", "rule.percent": 99.9, "base": "srp", "base.warmup": 4, "gamma": 5, "per_channel": None
    }  # fmt: skip


def left_out(settings: Mapping[str, Any]) -> set[str]:
    """Names in `settings`, or in one of its settings, that results do not list."""
    names = set(settings) & set(NOT_OF_A_METHOD)
    parts = [part for name, part in settings.items() if name not in names and isinstance(part, Mapping)]
    return names.union(*map(left_out, parts))


STRUCTURE = {"_target_", "_partial_", "_recursive_", "simulate"}
NOT_IN_RESULTS = {  # the machine, files, and what results state elsewhere
    "finetune": {"data", "task", "encoder", "teacher", "precision", "compile", "save", "start", "load"},
    "layer_calibration": {"seed"},
    "layer_calibration_advanced": {"seed"},
}


def test_no_setting_of_a_method_is_left_out_by_its_name(compose_config, any_method):
    """A setting with the name of another one (`start`) would be missing in results, and leaderboards would mix its values."""
    settings = OmegaConf.to_container(compose_config(f"method={any_method}").method, resolve=True)
    assert left_out(settings) - STRUCTURE == NOT_IN_RESULTS.get(any_method, set())


def test_every_method_tells_its_settings(compose_config, any_method):
    """As JSON; nothing in them changes with the seed, the device or where data lie."""
    one, other = (
        method_settings(OmegaConf.to_container(compose_config(f"method={any_method}", *elsewhere).method, resolve=True))
        for elsewhere in ((), ("seed=1", "device=cpu", "data.root=elsewhere", "data=cifar10", "track=none"))
    )
    assert json.loads(json.dumps(one)) == one == other


def test_a_list_is_shown_whole_and_a_curve_at_powers_of_two():
    assert shown_timesteps([3, 5, 6]) == [3, 5, 6]
    assert shown_timesteps(range(1, 12)) == [1, 2, 4, 8, 11]


@pytest.mark.parametrize("curve", [{1: 0.5}, {3: 0.5, 5: 0.6}, dict.fromkeys(range(1, 129), 0.9)])
def test_any_curve_can_be_drawn(tmp_path, curve):
    plot_curves(tmp_path / "curve.png", {"SNN": curve, "other": curve}, {"ANN": 0.9}, "L = 4, θ learned")
    assert image.imread(tmp_path / "curve.png").ndim == 3


def test_the_terminal_shows_powers_of_two_and_the_last(run, snn, curve, monkeypatch):
    import rich

    console = Console(record=True, width=100, quiet=False, force_terminal=False)
    monkeypatch.setattr(rich, "get_console", lambda: console)
    report(run, snn, curve, Measured(0.875))
    text = console.export_text()
    assert [line.split()[1] for line in text.splitlines() if line.startswith("│")] == ["1", "2", "4", "6"]
    assert "mlp on synthetic, L = 4, qcfs" in text
    assert "ANN 87.50 %, 11 test images" in text
    assert "train" not in text  # nothing was
    monkeypatch.setattr("snnconv.results.report.title_of", lambda result: "net [bold] of a folder")
    report(run, snn, curve, Measured(0.875))
    assert "net [bold] of a folder" in console.export_text()


@pytest.mark.parametrize(
    ("activation", "warmup", "title"),
    [("QCFS", 0, "mlp on digits, L = 4, srp"), ("ReLU", 0, "mlp on digits, srp"),
     (None, 3, "mlp on digits, L = 4, srp (pre-simulated τ=3)"),
     ({"activation": "QCFS", "levels": 4}, 0, "mlp on digits, L = 4, srp"),
     ({"activation": "GELU, ReLU", "levels": None}, 0, "mlp on digits, srp")],
)  # fmt: skip
def test_a_title_states_the_warm_up_and_l_only_of_networks_with_levels(activation, warmup, title):
    latency = Latency(warmup=warmup).as_dict()
    facts = {"model": "mlp", "data": "digits", "levels": 4, "method": "srp", "latency": latency}
    network = {"activation": activation} if isinstance(activation, str) else activation
    assert title_of(replace(result(), **facts, network=network)) == title


# trackers


def test_jsonl_collects_one_line_a_run(tmp_path, open_tiny_run, snn, curve):
    shared = tmp_path / "all" / "results.jsonl"
    for name in ("one", "two"):
        run = open_tiny_run(name)
        run._tracker = Jsonl(str(shared))
        report(run, snn, curve, Measured(0.875))
    lines = [json.loads(line) for line in shared.read_text().splitlines()]
    assert [line["ann_accuracy"] for line in lines] == [0.875, 0.875]


class Failing(Tracker):
    """A tracking service that is lost on the way."""

    def log(self, metrics):
        raise ConnectionError("gone")


def test_losing_the_tracker_never_loses_the_run(open_tiny_run, snn, curve, caplog):
    run = open_tiny_run()
    run._tracker = Patient(Failing())
    run.log({"epoch": 0, "loss": 1.0})
    run.log({"epoch": 1, "loss": 0.5})
    report(run, snn, curve, Measured(0.875))
    run.finish(failed=False)
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "Failing failed (ConnectionError: gone); the run continues without it"
    ]
    assert (run.folder / "result.json").is_file()
    assert len((run.folder / "metrics.jsonl").read_text().splitlines()) == 2


def test_thresholds_reach_the_description(run, exact_network):
    run.save_ann(exact_network("plain"), {})
    stored = json.loads((run.folder / "ann.json").read_text())["thresholds"]
    learned = {path: [m.threshold.item()] for path, m in exact_network("plain").named_modules() if isinstance(m, QCFS)}
    assert stored == learned
