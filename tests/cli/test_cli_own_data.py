"""Own data and other tasks from the command line: what is found, shown, stored and ranked."""

import csv
import json

import numpy as np
import pytest
from command import EVALUATE, TRAIN, succeed
from sklearn.datasets import load_diabetes

from snnconv.results.leaderboard import leaderboard
from snnconv.results.records import read_results

pytestmark = pytest.mark.slow
PLAIN = ("model=mlp", "track=none", "fit.lr=0.02", "explain.images=20", "hydra.run.dir=run")


def test_numbers_from_a_table_are_learned_and_ranked_by_their_error(tmp_path):
    """The known effect: the error is smallest where T is the L of training, up to what is left of the noise."""
    raw = load_diabetes(scaled=False)
    with (tmp_path / "diabetes.csv").open("w") as file:
        writer = csv.writer(file)
        writer.writerow([*raw.feature_names, "progression"])
        writer.writerows(np.column_stack([raw.data, raw.target]).tolist())
    table = ("data=table", "data.file=diabetes.csv", "data.target=progression", "task=regress", "metric=[mae,r2]")
    succeed(TRAIN, *PLAIN, *table, "model.hidden=[32,32]", "fit.epochs=20", "timesteps=32", cwd=tmp_path)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    error = {int(t): value for t, value in result["metrics"]["mae"]["snn"].items()}
    assert (result["task"], result["score"], list(result["metrics"])) == ("regress", "R²", ["mae", "r2"])
    assert error[8] < min(error[1], error[2], error[4])
    assert error[8] < 1.1 * result["metrics"]["mae"]["ann"] < 55
    rows = list(csv.DictReader((tmp_path / "run" / "accuracy_vs_timesteps.csv").read_text().splitlines()))
    assert float(rows[7]["mae"]) == pytest.approx(error[8])
    assert "<th>mae</th>" in (tmp_path / "run" / "report.html").read_text()
    succeed(EVALUATE, "run=run", "timesteps=[4,8]", "metric=[mae]", "track=none", cwd=tmp_path)
    board = leaderboard(read_results([tmp_path / "run"]))
    assert "mae, lower is better" in board
    assert f"{error[8]:.4g}" in board


def test_frames_are_read_step_by_step(tmp_path):
    generator = np.random.default_rng(0)
    for part, count in (("train", 60), ("test", 20)):
        for label, name in enumerate(("across", "down")):
            (tmp_path / "moves" / part / name).mkdir(parents=True)
            for n in range(count):
                along, beside = np.linspace(0, 7, 80), generator.normal(generator.integers(2, 6), 0.5, 80).clip(0, 7)
                x, y = ((along, beside), (beside, along))[label]
                events = {"t": np.arange(80), "x": x.astype(int), "y": y.astype(int), "p": generator.integers(0, 2, 80)}
                np.savez(tmp_path / "moves" / part / name / f"{n}.npz", **events)
    frames = ("data=events", "data.root=moves", "data.size=[8,8]", "data.frames=5", "levels=4", "timesteps=10")
    out = succeed(TRAIN, *PLAIN, *frames, "fit.epochs=10", "fit.batch_size=16", cwd=tmp_path)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["latency"]["encoding"] == "frames"
    assert result["snn_accuracy"]["10"] > 0.85
    assert "class_names [across, down]" in str(out)
