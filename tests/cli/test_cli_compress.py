"""Compression through the real command line: a ladder whose stages are run folders, and wrong inputs."""

import json
from pathlib import Path

import pytest
from command import EVALUATE, FRESH, SMOKE, TRAIN, copy_run, fail, finish, start, succeed, wait_for
from killing.outcome import outcome

from snnconv.hardware.compression.size import size
from snnconv.runtime.checkpoint import load_ann

pytestmark = pytest.mark.cli
COMPRESS = EVALUATE.with_name("compress.py")


@pytest.mark.long
def test_a_ladder_of_run_folders(smoke: Path, tmp_path: Path):
    folder = copy_run(smoke, tmp_path / "run")
    options = ("compress=[prune30,sparse24]", "compress.fit.epochs=1", "timesteps=[2,4]")
    text = succeed(COMPRESS, "run=run", *options, cwd=tmp_path, **FRESH)
    (made,) = (folder / "compressed").iterdir()
    ladder = json.loads((made / "ladder.json").read_text())
    facts = [each["compression"] for each in ladder]
    assert [each["stages"] for each in facts] == [[], ["prune30"], ["prune30", "sparse24"]]
    assert [each["epochs"] for each in facts] == [0, 1, 1]
    assert facts[0]["parameters"] > facts[1]["parameters"] == facts[2]["parameters"]
    assert facts[1]["nonzero"] > facts[2]["nonzero"]
    assert facts[0]["macs"] > facts[1]["macs"] > facts[2]["macs"]
    assert all(set(each["energy"]) == set(facts[0]["energy"]) != set() for each in facts)
    assert "sparse24" in text
    assert "undid" not in text
    stage = made / "2_sparse24"
    assert json.loads((stage / "result.json").read_text())["compression"] == facts[2]
    assert size(load_ann(stage)) == {key: facts[2][key] for key in ("parameters", "nonzero", "bits")}

    text = succeed(EVALUATE, f"run={stage}", "timesteps=[2,4]", "explain.images=0", cwd=tmp_path)
    (again,) = stage.glob("evaluations/qcfs/*/result.json")
    assert json.loads(again.read_text())["snn_accuracy"] == ladder[2]["snn_accuracy"]
    options = ("compress=sparse24", "compress.fit.epochs=1", "compress.fit.keep_zeros=false", "timesteps=[2]")
    assert "training undid 2:4 sparsity in" in succeed(COMPRESS, f"run={stage}", *options, cwd=tmp_path)
    (further,) = stage.glob("compressed/*/1_sparse24")
    assert load_ann(further).state_dict().keys() == load_ann(stage).state_dict().keys()


DROPPING = """
from torch import nn

def network(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 24), nn.ReLU(), nn.Dropout(0.5), nn.Linear(24, num_classes))
"""


@pytest.mark.long
def test_a_killed_ladder_goes_on_at_the_stage_it_had_reached(tmp_path: Path):
    """From another directory, after a move; a user's network, with dropout, which draws from the generator of torch."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "net.py").write_text(DROPPING)
    model = ("model=custom", "model.path=net.py", "model.name=network")
    succeed(TRAIN, *SMOKE, *model, "fit.epochs=1", "hydra.run.dir=run", "explain.images=0", cwd=work)
    options = (
        "run=run",
        "trust=[net.py]",
        "compress=[prune30,sparse24]",
        "compress.fit.epochs=3",
        "timesteps=[2]",
        "compress.images=20",
    )
    succeed(COMPRESS, *options, "hydra.run.dir=whole", cwd=work)
    process = start(COMPRESS, [*options, "hydra.run.dir=killed"], work)
    wait_for(lambda: (work / "killed" / "2_sparse24" / "metrics.jsonl").exists(), process, timeout=300)
    process.kill()
    finish(process, work)
    assert not (work / "killed" / "2_sparse24" / "result.json").exists()
    work.rename(tmp_path / "moved")
    assert "is a compression; resume it with: " in fail(TRAIN, "resume=moved/killed", cwd=tmp_path)
    assert "is a stage of a compression; resume it with: " in fail(
        COMPRESS, "resume=moved/killed/1_prune30", cwd=tmp_path
    )
    assert "is a training; resume it with: " in fail(COMPRESS, "resume=moved/run", cwd=tmp_path)
    assert "timesteps=4: this resumes a run unchanged" in fail(
        COMPRESS, "resume=moved/killed", "timesteps=4", cwd=tmp_path
    )
    assert "trust=[" in fail(COMPRESS, "resume=moved/killed", cwd=tmp_path)
    text = succeed(COMPRESS, "resume=moved/killed", "trust=[moved/net.py]", cwd=tmp_path)
    assert "compress: 1 of 2 stages are done" in text
    killed, whole = (outcome(tmp_path / "moved" / name) for name in ("killed", "whole"))
    different = {name for name in {*killed, *whole} if killed.get(name) != whole.get(name)}
    assert different == {"2_sparse24/ann.json"}  # which names the user's file at its new place


def test_tells_what_is_wrong(smoke: Path, tmp_path: Path):
    copy_run(smoke, tmp_path / "run")
    assert "no stages; choose stages of conf/compress/" in fail(COMPRESS, "run=run", cwd=tmp_path)
    assert "integer=int4: has no effect here; integer=… is for check, integerize, export" in fail(
        COMPRESS, "run=run", "integer=int4", cwd=tmp_path
    )
    assert "no convolution becomes smaller" in fail(COMPRESS, "run=run", "compress=low_rank", cwd=tmp_path)
    text = fail(COMPRESS, "run=run", "compress=[prune30,distill]", cwd=tmp_path)
    assert (
        "compress: prune30: fit.distill_layers: no activation has the same path and shape as an activation of the teacher"
        in text
    )
    assert not list(tmp_path.glob("run/compressed/*/*"))


@pytest.mark.long
def test_weights_are_trained_quantized_and_stay_so(tmp_path: Path):
    """weights=ternary from the first epoch on; converted again, they are the same."""
    from command import only_run

    succeed(TRAIN, *SMOKE, "weights=ternary", "fit.epochs=2", cwd=tmp_path)
    run = only_run(tmp_path)
    result = json.loads((run / "result.json").read_text())
    assert result["weights"] == {"bits": 2, "per_channel": True, "train": True}
    weights = [tensor for name, tensor in load_ann(run).state_dict().items() if tensor.dim() > 1]
    assert all(len(row.unique()) <= 3 for tensor in weights for row in tensor)
    succeed(EVALUATE, f"run={run.relative_to(tmp_path)}", "explain.images=0", cwd=tmp_path)
    (again,) = run.glob("evaluations/qcfs/*/result.json")
    assert json.loads(again.read_text())["snn_accuracy"] == result["snn_accuracy"]
    given = f"run={run.relative_to(tmp_path)}"
    assert "bits=1: weights have 2" in fail(EVALUATE, given, "weights.bits=1", cwd=tmp_path)
    assert "was trained with weights of 2 bits and has no float weights" in fail(
        EVALUATE, given, "weights=float", cwd=tmp_path
    )
    assert "so zeros of pruning cannot be distinguished" in fail(COMPRESS, given, "compress=sparse24", cwd=tmp_path)


@pytest.mark.long
def test_weights_of_few_bits_are_trained_in_the_last_stage(smoke: Path, tmp_path: Path):
    folder = copy_run(smoke, tmp_path / "run")
    options = ("compress=[prune30,sparse24]", "weights=int4", "compress.fit.epochs=1", "timesteps=[2]")
    succeed(COMPRESS, "run=run", *options, cwd=tmp_path)
    (made,) = (folder / "compressed").iterdir()
    results = [json.loads((made / name / "result.json").read_text()) for name in ("1_prune30", "2_sparse24")]
    assert [result["weights"]["train"] for result in results] == [False, True]
    first, second = (load_ann(made / name).state_dict() for name in ("1_prune30", "2_sparse24"))
    matrices = [name for name, tensor in first.items() if tensor.dim() > 1]
    assert all(len(row.abs().unique()) > 8 for name in matrices for row in first[name])  # floats, measured in 4 bits
    assert all(len(row.abs().unique()) <= 8 for name in matrices for row in second[name])
