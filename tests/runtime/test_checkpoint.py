"""Stored files are restored exactly; errors name damaged or foreign files; reading a file never runs code."""

import json
import os
import pickle
import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from hydra.utils import instantiate
from safetensors.torch import load_file, save_file
from torch import nn

from snnconv.conversion.methods import finetune, qcfs
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.activations.relu import ReLU
from snnconv.runtime import checkpoint, files
from snnconv.runtime.checkpoint import load_ann, load_state, load_weights, save_ann, save_state
from snnconv.runtime.trust import require_trusted, trusting
from snnconv.spiking.neurons.integrate_fire import IntegrateFire


@pytest.fixture
def run(open_tiny_run):
    """A run that has saved a network, `run.ann`."""
    run = open_tiny_run("run", "levels=4")
    run.ann = instantiate(run.cfg.model)
    for number, site in enumerate(module for module in run.ann.modules() if isinstance(module, QCFS)):
        site.set_threshold(0.5 + number)
    run.save_ann(run.ann, {"epoch": 3, "valid_accuracy": 0.75})
    return run


def edit(run, **changes) -> None:
    """Change keys of ann.json."""
    path = run.folder / "ann.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_the_activations_are_those_of_the_network_and_not_of_the_configuration(tmp_path):
    layers = [nn.Linear(4, 4), nn.GELU(), nn.MultiheadAttention(4, 1), nn.ReLU(), nn.GELU(), nn.Softmax(-1)]
    save_ann(tmp_path, nn.Sequential(*layers), {"activation": {"_target_": "snnconv.nn.activations.qcfs.QCFS"}}, {})
    description = files.read_json(tmp_path / "ann.json")
    assert (description["activation"], description["levels"]) == ("GELU, ReLU", None)
    for network, expected in ((nn.Sequential(ReLU()), "ReLU"), (nn.Linear(4, 4), None)):
        save_ann(tmp_path, network, {}, {})
        assert files.read_json(tmp_path / "ann.json")["activation"] == expected


# there and back


def test_a_network_comes_back_as_it_was(run):
    ann, images = load_ann(run.folder), torch.randn(4, 1, 4, 4)
    assert not ann.training
    assert torch.equal(ann(images), run.ann.eval()(images))
    assert load_ann(str(run.folder)).state_dict().keys() == run.ann.state_dict().keys()


def test_ann_json_says_what_the_architecture_promises(run):
    description = files.read_json(run.folder / "ann.json")
    assert description["input_shape"] == [1, 4, 4]
    assert description["classes"] == 2
    assert (description["activation"], description["levels"]) == ("QCFS", 4)
    assert description["thresholds"] == {"3": [0.5]}
    assert (description["epoch"], description["valid_accuracy"]) == (3, 0.75)
    assert description["config"]["model"]["_target_"] == "snnconv.nn.models.mlp.mlp"
    assert {"python", "torch", "spikingjelly"} <= set(description["versions"])
    assert "commit" in description


def test_weights_in_another_memory_format_come_back(run):
    conv = nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
    run.save_ann(conv, {})
    other = nn.Conv2d(2, 3, 3)
    load_weights(other, run.folder / "ann.safetensors")
    assert torch.equal(other.weight, conv.weight)


def test_a_state_comes_back_as_it_was(tmp_path):
    state = {"epoch": 2, "seconds": 1.5, "training": {"weights": torch.randn(3), "rng": [1, (2, 3)], "ema": None}}
    save_state(tmp_path / "last.ckpt", state)
    loaded = load_state(tmp_path / "last.ckpt")
    assert torch.equal(loaded["training"]["weights"], state["training"]["weights"])
    assert (loaded["epoch"], loaded["seconds"], loaded["training"]["rng"]) == (2, 1.5, [1, (2, 3)])


# damaged files


@pytest.mark.parametrize("name", ["ann.json", "ann.safetensors"])
def test_a_missing_file_is_named(run, name):
    (run.folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"contains no {name}"):
        load_ann(run.folder)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: this run folder does not exist"):
        load_ann(tmp_path / "nowhere")


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_weights_are_named(run, keep):
    path = run.folder / "ann.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"ann\.safetensors: damaged"):
        load_ann(run.folder)


@pytest.mark.parametrize(
    "text", ["", '{"format": 1, "conf', "\x00\x01", "[]", '{"format": 1}', '{"format": 1, "config": {"model": 3}}']
)
def test_a_damaged_description_is_named(run, text):
    (run.folder / "ann.json").write_text(text)
    with pytest.raises(ValueError, match=r"ann\.json: "):
        load_ann(run.folder)


@pytest.mark.parametrize("found", [0, 2, "1", None])
def test_another_format_is_named(run, found):
    edit(run, format=found)
    with pytest.raises(
        ValueError,
        match=rf"ann\.json: has format {found!r}, but this version of snnconv reads format 1; use the version that wrote it",
    ):
        load_ann(run.folder)


def test_every_difference_between_file_and_network_is_listed(run):
    path = run.folder / "ann.safetensors"
    weights = load_file(path)
    del weights["1.bias"]
    save_file({**weights, "1.weight": torch.zeros(2, 2), "layer4.weight": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="does not fit Sequential") as error:
        load_ann(run.folder)
    assert str(error.value).splitlines()[1:] == [
        "  missing: 1.bias [8]", "  unknown: layer4.weight [3]", "  shape: 1.weight is [2, 2], expected [8, 16]"
    ]  # fmt: skip


def test_a_long_list_of_differences_is_cut(run):
    save_file({f"layer{n}": torch.zeros(1) for n in range(40)}, run.folder / "ann.safetensors")
    with pytest.raises(ValueError, match="… and 38 more"):
        load_ann(run.folder)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"not a checkpoint", pickle.dumps([1, 2])])
def test_a_damaged_state_is_named(tmp_path, content):
    (tmp_path / "last.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match=r"last\.ckpt: .*(damaged|format None)"):
        load_state(tmp_path / "last.ckpt")


def test_a_truncated_state_is_named(tmp_path):
    path = tmp_path / "last.ckpt"
    save_state(path, {"epoch": 1, "weights": torch.randn(1000)})
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"last\.ckpt: damaged"):
        load_state(path)


def test_a_state_of_another_format_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    save_state(tmp_path / "last.ckpt", {"epoch": 1})
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"last\.ckpt: has format 2, but this version of snnconv reads format 1"):
        load_state(tmp_path / "last.ckpt")


# hostile files


@pytest.fixture
def intruder(tmp_path, monkeypatch):
    """A module that can be imported and whose `act` leaves a mark; the tests want the mark never made."""
    mark = tmp_path / "mark"
    (tmp_path / "intruder.py").write_text(
        f"from pathlib import Path\n\n\ndef act(*arguments, **options):\n    Path({str(mark)!r}).touch()\n    return 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield mark
    sys.modules.pop("intruder", None)


HOSTILE = {
    "another package": {"_target_": "intruder.act"},
    "the shell": {"_target_": "os.system", "command": "true"},
    "in an argument": {"_target_": "snnconv.nn.models.mlp.mlp", "activation": {"_target_": "intruder.act"}},
    "in a list": {"_target_": "snnconv.nn.models.mlp.mlp", "hidden": [4, {"_target_": "intruder.act"}]},
    "partial": {"_target_": "snnconv.nn.models.mlp.mlp", "activation": {"_target_": "intruder.act", "_partial_": True}},
    "behind our modules": {"_target_": "snnconv.data.splits.torch.load", "f": "x"},
    "behind our functions": {"_target_": "snnconv.nn.models.mlp.math.prod", "iterable": [1]},
    "our own tools": {"_target_": "snnconv.runtime.checkpoint.load_ann", "run": "elsewhere", "trust": ["intruder"]},
    "a writer of files": {"_target_": "snnconv.runtime.files.write_text", "path": "x", "text": "y"},
    "a neighbour's name": {"_target_": "snnconvert.act"},
    "interpolation": {"_target_": "snnconv.nn.models.mlp.mlp", "hidden": "${oc.create:{_target_:intruder.act}}"},
    "interpolated target": {"_target_": "${oc.env:HOME}"},
    "nothing": {"_target_": "snnconv.nn.models.mlp.nothing"},
}


@pytest.mark.parametrize("model", HOSTILE.values(), ids=HOSTILE)
def test_a_stored_network_cannot_run_code(run, intruder, model):
    edit(run, config={"model": model})
    with pytest.raises(ValueError, match="stored configuration"):
        load_ann(run.folder)
    assert not intruder.exists()
    assert "intruder" not in sys.modules


def test_a_stored_network_cannot_start_a_program(run, tmp_path):
    """Of what stands beside the exporters, one starts a compiler."""
    call = {
        "_target_": "snnconv.hardware.export.c.run_c",
        "_args_": [str(tmp_path), {}, {}, 1, "touch", str(tmp_path / "mark")],
    }
    for model in (call, {"_target_": "snnconv.hardware.export.onnx_graph.package", "name": "intruder"}):
        edit(run, config={"model": model})
        with pytest.raises(ValueError, match="stored configuration"):
            load_ann(run.folder)
        with pytest.raises(ValueError, match="stored configuration"):
            require_trusted(model)
    assert not (tmp_path / "mark").exists()


def test_a_stored_network_cannot_run_a_file(run, intruder):
    file = str(intruder.with_name("intruder.py"))
    custom = {
        "_target_": "snnconv.nn.models.custom.custom",
        "path": file,
        "name": "act",
        "num_classes": 2,
        "input_shape": [1, 4, 4],
    }
    edit(run, config={"model": {**custom, "activation": None}})
    with pytest.raises(ValueError, match="stored configuration"):
        load_ann(run.folder)
    assert not intruder.exists()


def test_of_training_a_stored_configuration_may_call_its_settings_alone():
    with pytest.raises(ValueError, match=r"snnconv\.training\.loop\.fit: this stored configuration calls code outside"):
        require_trusted({"fit": {"_target_": "snnconv.training.loop.fit"}})


def test_a_stored_configuration_cannot_call_what_is_private():
    with pytest.raises(ValueError, match=r"finetune\._save: this stored configuration calls private code"):
        require_trusted(
            {
                "data": {
                    "_target_": "snnconv.conversion.methods.finetune._save",
                    "network": None,
                    "file": "x",
                    "made": {},
                }
            }
        )


def test_a_network_file_that_is_gone_is_told_with_the_way_to_name_it_again(tmp_path):
    call = {"_target_": "snnconv.nn.models.custom.custom", "path": str(tmp_path / "net.py")}
    with pytest.raises(ValueError, match=r"net\.py, which does not exist; .*give its present place with model\.path=…"):
        require_trusted({"model": call})


def test_a_stored_configuration_cannot_bring_a_teacher_that_runs_a_file(run, intruder, tiny_batches):
    """Methods may be stored, and one of them loads a network; what that network may run, the command line says alone."""
    custom = {
        "_target_": "snnconv.nn.models.custom.custom",
        "path": str(intruder.with_name("intruder.py")),
        "name": "act",
    }
    edit(run, config={"model": {**custom, "num_classes": 2, "input_shape": [1, 4, 4], "activation": None}})
    options = {"base": partial(qcfs.convert, neuron=IntegrateFire), "data": SimpleNamespace(train=tiny_batches(8, 8)),
               "epochs": 1, "lr": 0.1, "timesteps": 1, "teacher": str(run.folder)}  # fmt: skip
    with pytest.raises(ValueError, match="this stored configuration runs the code in"):
        finetune.convert(run.ann, [], **options)
    with pytest.raises(TypeError, match="trust"):
        finetune.convert(run.ann, [], trust=[custom["path"]], **options)
    assert not intruder.exists()


def test_a_command_can_say_what_is_trusted_without_a_configuration(run, intruder, unchecked):
    edit(run, config={"model": {"_target_": "intruder.act"}})
    with trusting(["intruder"]), pytest.raises(AttributeError):
        load_ann(run.folder)
    assert intruder.exists()
    with pytest.raises(ValueError, match="stored configuration"):
        load_ann(run.folder)


def test_what_is_trusted_is_run(run, intruder, unchecked):
    edit(run, config={"model": {"_target_": "intruder.act"}})
    with pytest.raises(AttributeError):  # it returns 3, which is no network
        load_ann(run.folder, trust=["intruder"])
    assert intruder.exists()


class Intruder:
    def __init__(self, mark) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch '{self.mark}'",)


@pytest.mark.parametrize("how", ["torch.save", "pickle"])
def test_a_malicious_state_is_not_run(tmp_path, how):
    mark, path = tmp_path / "mark", tmp_path / "last.ckpt"
    content = {"format": 1, "epoch": Intruder(mark)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=r"last\.ckpt: damaged, or not a checkpoint"):
        load_state(path)
    assert not mark.exists()


# files are the old or the new one


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    files.write_json(path, {"old": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"result\.json: could not be written \(No space left on device\)"):
        files.write_json(path, {"new": 2})
    assert files.read_json(path) == {"old": 1}
    assert os.listdir(tmp_path) == ["result.json"]


def test_a_failed_save_leaves_the_old_network(run, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with torch.no_grad():
        run.ann[1].weight.fill_(7)
    with pytest.raises(OSError, match="could not be written"):
        run.save_ann(run.ann, {})
    monkeypatch.undo()
    assert load_ann(run.folder)[1].weight.max() < 7


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_no_json(tmp_path, value):
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "x.json", {"accuracy": value})
    assert os.listdir(tmp_path) == []


def test_a_line_that_was_cut_short_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for epoch in range(3):
        files.append_line(path, {"epoch": epoch, "text": "θ"})
    path.write_bytes(path.read_bytes()[:-4])
    assert [row["epoch"] for row in files.read_lines(path)] == [0, 1]
    assert files.read_lines(tmp_path / "none.jsonl") == []
