"""`python train.py …`: what a run leaves behind, and every choice that is quick to try."""

import json
from pathlib import Path

import pytest
from command import ROOT, RUN_FILES, SMOKE, TRAIN, files_in, only_run, succeed

pytestmark = pytest.mark.cli


def test_a_run_leaves_the_listed_files_and_no_others(smoke: Path):
    assert files_in(smoke) == RUN_FILES
    assert {path.name for path in smoke.parents[2].iterdir()} == {"runs"}
    assert "epoch 2/2" in (smoke / "train.log").read_text()
    assert (smoke / "accuracy_vs_timesteps.png").read_bytes().startswith(b"\x89PNG")


def test_result_json_has_every_key_of_the_contract(smoke: Path):
    result = json.loads((smoke / "result.json").read_text())
    fraction = lambda value: isinstance(value, float) and 0 <= value <= 1  # noqa: E731
    assert fraction(result["ann_accuracy"])
    assert result["ann_relu_accuracy"] is None
    assert list(result["snn_accuracy"]) == [str(t) for t in range(1, 9)]
    assert all(fraction(value) for value in result["snn_accuracy"].values())
    assert (result["method"], result["model"], result["data"]) == ("qcfs", "mlp", "synthetic")
    assert (result["levels"], result["timesteps"], result["warmup"], result["seed"]) == (4, 8, 0, 0)
    assert set(result["latency"]) == {"warmup", "waits", "spike_levels", "signed", "readout_from", "needs_training",
                                      "float_operators", "analog_currents", "readout", "encoding"}  # fmt: skip
    assert result["images_tested"] == 100
    assert (result["device"], result["precision"]) == ("cpu", "float32")
    assert result["neuron_implementation"]
    assert fraction(result["firing_rate"]["mean"])
    assert set(result["firing_rate"]["layers"]) == {"3", "6"}
    assert all(fraction(value) for value in result["firing_rate"]["layers"].values())
    assert all(isinstance(result["wall_seconds"][stage], float) for stage in ("train", "convert", "evaluate"))
    assert {"python", "torch", "spikingjelly", "snnconv"} <= set(result["versions"])
    assert result["commit"] is None or isinstance(result["commit"], str)
    assert result["command"] == f"python {TRAIN} {' '.join(SMOKE)}"


def test_ann_json_tells_what_rebuilds_the_network(smoke: Path):
    description = json.loads((smoke / "ann.json").read_text())
    assert description["config"]["model"]["_target_"] == "snnconv.nn.models.mlp.mlp"
    assert (description["input_shape"], description["classes"], description["levels"]) == ([3, 8, 8], 10, 4)
    assert set(description["thresholds"]) == {"3", "6"}
    assert {"torch", "python"} <= set(description["versions"])
    assert "commit" in description


def test_metrics_and_csv_hold_one_line_per_epoch_and_timestep(smoke: Path):
    rows = [json.loads(line) for line in (smoke / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [0, 1]
    assert set(rows[0]) == {"epoch", "loss", "train_accuracy", "valid_accuracy", "lr", "seconds", "thresholds"}
    lines = (smoke / "accuracy_vs_timesteps.csv").read_text().splitlines()
    assert lines[0].split(",")[:3] == ["timesteps", "accuracy", "ann_accuracy"]
    assert len(lines) == 1 + 8


def test_help_lists_every_choice_and_makes_no_folder(tmp_path: Path):
    text = succeed(TRAIN, "--help", cwd=tmp_path)
    assert "levels: 8" in text
    assert "levels: 8                                 # L, quantization levels of the activation" in text
    assert f"python {TRAIN} model=vgg16 levels=8" in text
    for group in ("model", "activation", "neuron", "track"):
        _, _, choices = text.partition(f"  {group}: ")
        assert all(path.stem in choices for path in (ROOT / "conf" / group).glob("*.yaml"))
    for group in ("method", "data", "experiment"):
        for path in (ROOT / "conf" / group).glob("*.yaml"):
            (line,) = [line for line in text.splitlines() if line.startswith(f"  {path.stem} ")]
            assert len(line) > len(path.stem) + 20, "an option without the sentence that explains it"
    assert max(map(len, text.partition("Choices")[2].partition("Settings")[0].splitlines())) <= 80
    assert not list(tmp_path.iterdir())


def test_cfg_shows_the_configuration_and_makes_no_folder(tmp_path: Path):
    text = succeed(TRAIN, "levels=3", "--cfg", "job", cwd=tmp_path)
    assert "levels: 3" in text
    assert not list(tmp_path.iterdir())


TINY = ("data.train=60", "data.valid=20", "data.calibration=20", "data.test=20", "fit.epochs=1", "timesteps=2")


def finished(cwd: Path) -> list[dict]:
    """The results of a sweep, in the order of its jobs."""
    (summary,) = cwd.glob("runs/sweeps/*/summary.json")
    return [job["result"] for job in json.loads(summary.read_text())]


@pytest.mark.long
def test_models_train_and_convert(tmp_path: Path):
    succeed(TRAIN, "-m", *SMOKE, *TINY, "model=mlp,resnet20,resnet18,vgg11", cwd=tmp_path)
    assert [result["model"] for result in finished(tmp_path)] == ["mlp", "resnet20", "resnet18", "vgg11"]


@pytest.mark.slow
def test_large_models_train_and_convert(tmp_path: Path):
    succeed(TRAIN, "-m", *SMOKE, *TINY, "model=vgg13,vgg16,vgg19,resnet34", cwd=tmp_path)
    assert [result["model"] for result in finished(tmp_path)] == ["vgg13", "vgg16", "vgg19", "resnet34"]


@pytest.mark.long
def test_settings_of_training_reach_the_run(tmp_path: Path):
    settings = (
        "fit.select=last", "fit.ema=0.9", "fit.channels_last=true", "fit.clip_grad_norm=1", "fit.label_smoothing=0.1",
        "fit.schedule=constant", "fit.warmup_epochs=0.5", "fit.nesterov=true", "fit.threshold_weight_decay=0",
    )  # fmt: skip
    succeed(
        TRAIN,
        *SMOKE,
        *TINY,
        *settings,
        "model=resnet20",
        "precision=bf16",
        "device=cpu",
        "levels=3",
        "seed=5",
        cwd=tmp_path,
    )
    result = json.loads((only_run(tmp_path) / "result.json").read_text())
    assert (result["precision"], result["levels"], result["seed"], result["timesteps"]) == ("bf16", 3, 5, 2)


@pytest.mark.long
def test_digits_are_the_default_data(tmp_path: Path):
    succeed(TRAIN, "model=mlp", "fit.epochs=1", "timesteps=3", "track=none", cwd=tmp_path)
    result = json.loads((only_run(tmp_path) / "result.json").read_text())
    assert (result["data"], result["levels"], result["images_tested"]) == ("digits", 8, 360)
    assert only_run(tmp_path).parent.name == "mlp-digits"
    assert result["ann_accuracy"] > 0.5  # after one epoch
