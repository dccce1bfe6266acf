"""A user's own network through the real command line: fine-tuned, resumed, evaluated, and trusted only where one says so."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from command import EVALUATE, TRAIN, fail, succeed
from torch import nn

from snnconv.runtime import program

pytestmark = pytest.mark.cli

MINE = """
from torch import nn

class Mine(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.flatten, self.one, self.two = nn.Flatten(), nn.Linear(16, 5), nn.Linear(5, num_classes)

    def forward(self, x):
        return self.two(self.one(self.flatten(x)).relu())
"""


@pytest.mark.long
def test_fine_tuned_resumed_and_evaluated(tmp_path: Path):
    """The weights may go once training has begun; the python file runs again only where it is trusted."""
    (tmp_path / "mine.py").write_text(MINE)
    network = nn.ModuleDict({"one": nn.Linear(16, 5), "two": nn.Linear(5, 10)})
    torch.save(network.state_dict(), tmp_path / "mine.pt")
    model = ("model=custom", "model.path=mine.py", "model.name=Mine", "model.weights=mine.pt", "names.model=mine")
    data = ("data=synthetic", "data.input_shape=[1,4,4]", "data.mean=[0.5]", "data.std=[0.25]")
    shared = ("track=none", "device=cpu", "timesteps=2", "explain.images=0")
    text = succeed(TRAIN, *model, *data, "fit=finetune", "fit.epochs=1", "hydra.run.dir=run", *shared, cwd=tmp_path)
    assert "Calibrated 1 thresholds" in text
    assert json.loads((tmp_path / "run" / "result.json").read_text())["select"] == "best"
    (tmp_path / "mine.pt").unlink()
    for script, key in ((TRAIN, "resume"), (EVALUATE, "run")):
        assert "trust=[" in fail(script, f"{key}=run", *shared, cwd=tmp_path)
        succeed(script, f"{key}=run", "trust=[mine.py]", *shared, cwd=tmp_path)
    (evaluation,) = (tmp_path / "run" / "evaluations").glob("*/*/result.json")
    assert json.loads(evaluation.read_text())["model"] == "mine"


@pytest.mark.long
def test_two_files_with_neighbours_of_one_name_in_one_process(tmp_path: Path):
    """Each network gets its own `layers.py`, however many are evaluated at once."""
    shared = ("track=none", "device=cpu", "timesteps=2", "explain.images=0")
    data = ("data=synthetic", "data.input_shape=[1,4,4]", "data.mean=[0.5]", "data.std=[0.25]")
    for name, gain in (("one", 1), ("two", -3)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "layers.py").write_text(f"GAIN = {gain}\n")
        own = MINE.replace("self.two(", "self.two(GAIN * ")
        (tmp_path / name / "mine.py").write_text(f"from layers import GAIN\n{own}")
        model = ("model=custom", f"model.path={name}/mine.py", "model.name=Mine")
        succeed(TRAIN, *model, *data, "fit.epochs=2", f"hydra.run.dir=runs/{name}", *shared, cwd=tmp_path)
    succeed(EVALUATE, "run=runs/one,runs/two", "trust=[one/mine.py,two/mine.py]", *shared, cwd=tmp_path)
    for name in ("one", "two"):
        (again,) = (tmp_path / "runs" / name / "evaluations").glob("*/*/result.json")
        result, before = (json.loads(path.read_text()) for path in (again, tmp_path / "runs" / name / "result.json"))
        assert result["ann_accuracy"] == before["ann_accuracy"]
        assert result["snn_accuracy"] == before["snn_accuracy"]


@pytest.mark.long
def test_a_run_is_opened_from_anywhere_and_after_a_move(tmp_path: Path):
    """The path was typed relative to a folder with a name that Hydra and the shell have to be given in quotes."""
    work = tmp_path / "läuft, 'so'"
    work.mkdir()
    (work / "mine.py").write_text(MINE)
    shared = ("track=none", "device=cpu", "timesteps=2", "explain.images=0")
    model = ("model=custom", "model.path=mine.py", "model.name=Mine")
    data = ("data=synthetic", "data.input_shape=[1,4,4]", "data.mean=[0.5]", "data.std=[0.25]")
    succeed(TRAIN, *model, *data, "fit.epochs=1", "hydra.run.dir=runs/one", *shared, cwd=work)

    def evaluate(run: Path, cwd: Path, *more: str) -> None:
        """First refused, with the words that a pasted command needs; then accepted with them."""
        cwd.mkdir(exist_ok=True)
        key = program.override("run", str(run))
        text = fail(EVALUATE, key, *shared, *more, cwd=cwd)
        (remedy,) = [word for word in shlex.split(text.partition("load it with ")[2]) if word.startswith("trust=")]
        succeed(EVALUATE, key, remedy, *shared, *more, cwd=cwd)

    evaluate(work / "runs" / "one", tmp_path / "elsewhere")
    moved = tmp_path / "moved"
    work.rename(moved)
    evaluate(moved / "runs" / "one", tmp_path / "elsewhere")
    evaluate(Path("runs/one"), moved)
    (moved / "mine.py").rename(tmp_path / "renamed.py")  # then it has to be named
    assert "mine.py" in fail(EVALUATE, "run=runs/one", "trust=[mine.py]", *shared, cwd=moved)
    succeed(EVALUATE, "run=runs/one", f"model.path={tmp_path / 'renamed.py'}", *shared, cwd=moved)
    shutil.rmtree(moved / "runs" / "one" / "evaluations")
    succeed(TRAIN, "resume=runs/one", "model.path=../renamed.py", *shared, cwd=moved)
