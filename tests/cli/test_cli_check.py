"""`python scripts/check.py`: what becomes of every layer, from the command line, with no data and nothing left behind."""

from pathlib import Path

import pytest
import torch
from command import CHECK, FRESH, SMOKE, TRAIN, copy_run, environment, fail, files_in, succeed

pytestmark = pytest.mark.cli

BROKEN = """
import torch
from torch import nn

class Pooled(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv, self.act, self.pool = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.LPPool2d(2, 2)
        self.fc = nn.Linear(4 * 16 * 16, num_classes)

    def forward(self, x):
        return self.fc(self.pool(self.act(self.conv(x))).flatten(1))
"""


@pytest.fixture
def pooled(tmp_path: Path) -> list[str]:
    """A user's network whose pooling stands behind the first spikes, for data that are not here."""
    (tmp_path / "pooled.py").write_text(BROKEN)
    return [
        "model=custom",
        "model.path=pooled.py",
        "model.name=Pooled",
        "operators=none",
        "data=cifar10",
        "data.root=nowhere",
    ]


@pytest.mark.long
def test_a_model_is_told_layer_by_layer(tmp_path: Path):
    text = succeed(CHECK, "model=mlp", "data=imagenet", "levels=4", "track=wandb", cwd=tmp_path, **FRESH)
    assert "│ 1 " in text
    assert "IntegrateFire neuron, θ = 8, L = 4" in text
    assert "Sequential can be converted by method=qcfs." in text
    assert not list(tmp_path.iterdir())


def test_an_obstacle_is_status_1_here_and_stops_training_before_it_begins(pooled: list[str], tmp_path: Path):
    text = fail(CHECK, *pooled, cwd=tmp_path)
    assert "│ pool " in text
    line = "pool (LPPool2d): no operator replaces it; choose operators=auto"
    assert f"Obstacle 1: {line}" in text
    assert "Pooled cannot be converted by method=qcfs." in text
    again = fail(TRAIN, *pooled[:4], "data=synthetic", "data.input_shape=[3,32,32]", "data.mean=[0.5,0.5,0.5]",
                 "data.std=[0.2,0.2,0.2]", "track=none", cwd=tmp_path)  # fmt: skip
    assert f"Pooled cannot be converted:\n  {line}" in again
    assert {path.name for path in tmp_path.iterdir()} == {"pooled.py"}


def test_another_method_is_named_where_the_chosen_one_does_not_fit(tmp_path: Path):
    text = fail(CHECK, "model=mlp", "activation=relu", cwd=tmp_path)
    assert "nothing to convert; its activations are ReLU" in text
    assert "without changes it can be converted by method=burst, " in text
    assert ", max_norm, mse, " in text


def test_a_run_is_checked_and_left_alone(smoke: Path, tmp_path: Path):
    folder = copy_run(smoke, tmp_path / "copy")
    before = files_in(folder)
    text = succeed(CHECK, "run=copy", "method=st_bif", cwd=tmp_path)
    assert "STBIF neuron, θ = " in text
    assert "Sequential can be converted by method=st_bif." in text
    text = fail(CHECK, "run=copy", "method=mse", cwd=tmp_path)
    assert "Obstacle 1: Sequential has no ReLU: nothing to convert" in text
    assert files_in(folder) == before
    assert {path.name for path in tmp_path.iterdir()} == {"copy"}


@pytest.mark.long
def test_wrong_input_is_told_without_a_traceback(pooled: list[str], smoke: Path, tmp_path: Path):
    assert "run=runs/x: not a run folder with a trained network" in fail(CHECK, "run=runs/x", cwd=tmp_path)
    assert "resume=… is for " in fail(CHECK, f"resume={smoke}", cwd=tmp_path)
    assert "model=vgg11: this evaluates" in fail(CHECK, f"run={smoke}", "model=vgg11", cwd=tmp_path)
    assert "one network at a time" in fail(CHECK, "-m", "levels=4,8", cwd=tmp_path)
    torch.save({"conv.weight": torch.zeros(4, 3, 5, 5)}, tmp_path / "other.pt")
    text = fail(CHECK, *pooled, "model.weights=other.pt", cwd=tmp_path)
    assert "shape: conv.weight is [4, 3, 5, 5], expected [4, 3, 3, 3]" in text
    text = fail(CHECK, *pooled, "data.input_shape=[3,8,8]", cwd=tmp_path)
    assert "Obstacle 2: fc (Linear): fails on images of 3×8×8" in text
    text = fail(CHECK, *SMOKE, "method=srp", "method.warmup=0", cwd=tmp_path)
    assert "Obstacle 1: method.warmup=0: must be an integer of at least 1" in text
    text = fail(CHECK, *SMOKE, "activation=relu", "method=percentile", "data.calibration=1", cwd=tmp_path)
    assert "needs at least 1000 activations, got " in text
    text = fail(
        CHECK, *SMOKE, "simulate.exit=confidence", "data.valid=0", "fit.select=last", "method=srp", cwd=tmp_path
    )
    assert "simulate.exit=confidence: the threshold is chosen on validation images, but data.valid=0" in text
    text = fail(CHECK, *SMOKE, "export=nir", "method=st_bif", cwd=tmp_path)
    assert "Obstacle 1: export=nir: 3 (STBIF): only plain integrate-and-fire neurons can be exported" in text
    text = fail(CHECK, *SMOKE, "export=onnx", "export.opset=12", cwd=tmp_path)
    assert "Obstacle 1: export=onnx: export.opset=12: must be from 13" in text
    text = fail(CHECK, *SMOKE, "integer=int4", "integer.golden=-1", cwd=tmp_path)
    assert "Obstacle 1: integer.golden=-1: must be an integer of at least 0" in text
    text = succeed(CHECK, *SMOKE, "integer=int4", "integer.membrane_bits=3", cwd=tmp_path)
    assert "membrane_bits=3: this layer needs at least " in text
    assert "training or calibration will change them" in text
    assert "targets of data=synthetic are classes" in fail(CHECK, *SMOKE, "task=regress", cwd=tmp_path)
    assert "task=dense: the network returns [4, 10]" in fail(CHECK, *SMOKE, "task=dense", cwd=tmp_path)
    assert "fit.epochs=0 does not train the network" in fail(CHECK, *SMOKE, "fit.epochs=0", cwd=tmp_path)
    assert "track.project='a/b': " in fail(CHECK, *SMOKE, "track=wandb", "track.project=a/b", cwd=tmp_path)
    assert "metric=mae: does not fit task=classify" in fail(CHECK, *SMOKE, "metric=[mae]", cwd=tmp_path)
    assert "data.valid=0 leaves no images for fit.select=best" in fail(CHECK, *SMOKE, "data.valid=0", cwd=tmp_path)
    assert "explain.disturbances: a=1: " in fail(CHECK, *SMOKE, "explain.disturbances={a: 1}", cwd=tmp_path)
    assert "track.mode='bad': " in fail(CHECK, *SMOKE, "track=wandb", "track.mode=bad", cwd=tmp_path)
    assert "simulate.compile='fast': " in fail(CHECK, *SMOKE, "simulate.compile=fast", cwd=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"pooled.py", "other.pt"}


@pytest.mark.long
def test_a_terminal_without_greek_letters(tmp_path: Path):
    text = succeed(CHECK, "model=mlp", cwd=tmp_path, env=environment(PYTHONIOENCODING="ascii"))
    assert r"\u03b8 = 8" in text
