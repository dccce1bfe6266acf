"""The zoo: every entry loads, keeps what its card states, and fits the package; packing checks before it writes."""

import json
import re
import shutil
from pathlib import Path

import pack_zoo
import pytest
from hydra.utils import instantiate

import snnconv
from snnconv.results.records import Result, read
from snnconv.runtime import configurations, zoo
from snnconv.runtime.checkpoint import describe_ann, identity, load_ann, weights_hash
from snnconv.runtime.stored_config import read_stored
from snnconv.runtime.weight_files import read_weights
from snnconv.spiking.accuracy import accuracy, accuracy_over_time
from snnconv.spiking.latency import latency_class

ENTRY = "digits_mlp_qcfs_l4"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch) -> Path:
    """A working directory without a folder zoo/."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_zoo_ships_with_the_package():
    files = [file for file in zoo.ZOO.rglob("*") if file.is_file()]
    assert ENTRY in zoo.names()
    assert sum(file.stat().st_size for file in files) <= pack_zoo.MOST
    assert all(
        len(file.relative_to(zoo.ZOO).parts) == 2 or file.parent.name == ".hydra" for file in files
    )  # package data


@pytest.mark.parametrize("name", zoo.names())
def test_a_card_states_the_results(name: str):
    folder = zoo.ZOO / name
    results, card = read(Result, folder / "results.jsonl"), (folder / "README.md").read_text(encoding="utf-8")
    assert any(result.network["weights"] == weights_hash(folder) for result in results)
    assert {result.network["recipe"] for result in results} == {identity(folder)}
    stored = read_stored(folder / ".hydra" / "config.yaml", [])
    assert {result.simulate["precision"] for result in results} == {
        stored.simulate.precision
    }  # evaluations repeat the card
    assert card.startswith("---\nlicense: ")
    rows = [
        [cell.strip() for cell in line.strip("| ").split("|")] for line in card.splitlines() if line.startswith("|")
    ]
    columns = {
        head: dict(zip([row[0] for row in rows], [row[n] for row in rows], strict=True))
        for n, head in enumerate(rows[0])
    }
    for result in results:
        assert f"{result.images_tested} test images" in card
        if len({other.seed for other in results}) > 1:
            continue
        assert f"ANN: {100 * result.ann_accuracy:.2f}" in card
        ours = [
            column
            for head, column in columns.items()
            if re.fullmatch(rf"{result.method}( \(.*\))? \({re.escape(latency_class(result.latency))}\)", head)
        ]
        wanted = {str(t): f"{100 * value:.2f}" for t, value in result.snn_accuracy.items()}
        assert any(wanted.items() <= column.items() for column in ours)


@pytest.mark.long
def test_its_accuracies_are_measured_again(elsewhere: Path, compose_config):
    """Loaded by its name, with the data of its stored configuration."""
    (result,) = [one for one in read(Result, zoo.ZOO / ENTRY / "results.jsonl") if one.method == "qcfs"]
    cfg = compose_config("model=mlp", "levels=4", "device=cpu")
    data, ann = instantiate(cfg.data), snnconv.load(ENTRY)
    assert accuracy(ann, data.test) == pytest.approx(result.ann_accuracy, abs=1 / 360)
    curve = accuracy_over_time(instantiate(cfg.method)(ann, data.calibration), data.test, 4).accuracy
    for t, value in curve.items():
        assert value == pytest.approx(result.snn_accuracy[t], abs=3 / 360)


def test_a_name_stands_wherever_a_run_does(elsewhere: Path):
    weights = read_weights(f"zoo/{ENTRY}")
    for network in (load_ann(f"zoo/{ENTRY}"), snnconv.load(f"zoo/{ENTRY}"), snnconv.load(ENTRY)):
        assert all((tensor == weights[name]).all() for name, tensor in network.state_dict().items())
    assert describe_ann(f"zoo/{ENTRY}")["classes"] == 10
    assert zoo.writable(f"zoo/{ENTRY}") == zoo.writable(zoo.ZOO / ENTRY) == Path("runs") / "zoo" / ENTRY
    assert zoo.writable("runs/mine") == Path("runs/mine")


def test_a_folder_of_this_name_comes_first(elsewhere: Path):
    own = elsewhere / "zoo" / ENTRY
    own.mkdir(parents=True)
    assert zoo.located(f"zoo/{ENTRY}") == Path("zoo") / ENTRY
    (elsewhere / ENTRY).mkdir()
    with pytest.raises(
        FileNotFoundError, match=r"load reads files of snnconv\.save, a run folder .*, or a network of the zoo"
    ):
        snnconv.load(ENTRY)


def test_an_unknown_name_lists_the_known_ones(elsewhere: Path):
    with pytest.raises(ValueError, match=rf"zoo/digits: no such network in the zoo; there are .*{ENTRY}"):
        load_ann("zoo/digits")


# packing


@pytest.fixture
def run(elsewhere: Path) -> Path:
    """A run folder, as a training leaves it: the entry and its result."""
    folder = elsewhere / "runs" / "mlp"
    shutil.copytree(zoo.ZOO / ENTRY, folder)
    line = (folder / "results.jsonl").read_text().splitlines()[0]
    (folder / "result.json").write_text(line)
    (folder / "results.jsonl").unlink()
    (folder / "README.md").unlink()
    return folder


def pack(run: Path, name: str = "packed", seeds=(), out: str = "hub") -> Path:
    return pack_zoo.pack(run, name, seeds, Path(out), "MIT", "A note.")


def test_a_run_becomes_an_entry(run: Path):
    content = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(content | {"simulate": content["simulate"] | {"precision": "bf16"}}))
    folder = pack(run)
    assert read_stored(folder / ".hydra" / "config.yaml", []).simulate.precision == "bf16"
    assert {file.name for file in folder.rglob("*") if file.is_file()} == {
        "ann.json", "ann.safetensors", "results.jsonl", "README.md", "config.yaml", "hydra.yaml", "overrides.yaml",
    }  # fmt: skip
    assert weights_hash(folder) == weights_hash(run)
    text = (folder / "README.md").read_text()
    assert "A note." in text
    assert "| T | qcfs (plain) |" in text
    assert "method=qcfs" in text
    assert identity(folder) == identity(run)


def test_other_seeds_give_mean_and_deviation(run: Path):
    other = run.parent / "other"
    shutil.copytree(run, other)
    content = json.loads((other / "result.json").read_text())
    content |= {"seed": 1, "ann_accuracy": content["ann_accuracy"] - 0.1}
    (other / "result.json").write_text(json.dumps(content))
    card = (pack(run, seeds=[other]) / "README.md").read_text()
    mean, deviation = 100 * content["ann_accuracy"] + 5, 10 / 2**0.5
    assert f"2 seeds (0, 1). ANN: {mean:.2f} ± {deviation:.2f}" in card


def test_paths_of_the_machine_are_not_packed(run: Path):
    """The root of the data is the default one; any other path is an error."""
    file = run / ".hydra" / "config.yaml"
    text = file.read_text()
    stored = read_stored(file, [])
    stored.data.root = "/home/user/data"
    default = read_stored(configurations.CONF / "data" / "cifar10.yaml", []).root
    stored.device, stored.threads = "cuda", 3
    stored.track = {"_target_": "snnconv.runtime.tracking.WandbTracker", "entity": "somebody"}
    packed = pack_zoo.portable(stored, "cifar10")
    assert packed.data.root == default
    assert (packed.device, packed.threads, list(packed.track)) == ("auto", "auto", ["_target_"])
    file.write_text(text.replace("epochs: 30", "epochs: 30\n  notes: /home/user/secret"))
    with pytest.raises(ValueError, match=r"config\.yaml: contains a path of this machine, /home/user/secret"):
        pack(run)
    assert not Path("hub").exists()


def _of_other_weights(run: Path) -> None:
    content = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(content | {"network": {**content["network"], "weights": "0" * 12}}))


def _of_users_code(run: Path) -> None:
    content = json.loads((run / "ann.json").read_text())
    content["config"]["model"] = {"_target_": "snnconv.nn.models.custom.custom", "path": "net.py", "name": "Net"}
    (run / "ann.json").write_text(json.dumps(content))
    Path("net.py").write_text("")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_of_other_weights, "no result.json belongs to the weights"),
        (_of_users_code, "net.py"),
        (lambda run: (run / "result.json").unlink(), "contains no result.json"),
    ],
)
def test_nothing_is_packed_that_does_not_hold_together(change, message: str, run: Path):
    change(run)
    with pytest.raises((ValueError, OSError), match=message):
        pack(run)
    assert not Path("hub").exists()


def test_names_are_names(run: Path):
    for name in ("Big", "a b", "../up", ""):
        with pytest.raises(ValueError, match="lower-case letters"):
            pack(run, name)
    pack(run)
    with pytest.raises(ValueError, match="exists already"):
        pack(run)
