"""Bad input: one clear message, a non-zero status, nothing lost, nothing half-written, and no code of strangers run."""

import json
import math
import pickle
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command import (
    EVALUATE,
    SMOKE,
    TRAIN,
    copy_run,
    environment,
    fail,
    files_in,
    go_on,
    only_run,
    outcome,
    succeed,
)  # fmt: skip

from snnconv.runtime import files
from snnconv.runtime.checkpoint import load_ann

pytestmark = pytest.mark.cli


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("levels=0", "levels=0: must be an integer of at least 1"),
        ("levels=-1", "levels=-1: must be an integer of at least 1"),
        ("levels=1.5", "levels=1.5: must be an integer of at least 1"),
        ("timesteps=0", "timesteps=0: must be an integer of at least 1"),
        (
            "model=vgg99",
            "model=vgg99: no such option; did you mean vgg19 or vgg16 or vgg13; there are: cct, conv1d, custom, mlp, ",
        ),
        ("method=magic", "method=magic: no such option; there are: burst, cos, "),
        ("data=mnist99", "data=mnist99: no such option; there are: arrays, cifar10, "),
        ("colour=blue", "colour=blue: there is no colour; --help lists all settings"),
        ("modle=mlp", "modle=mlp: there is no modle; did you mean model"),
        ("+modle=mlp", "+modle=mlp: there is no modle; did you mean model"),
        ("fit.epoch=3", "fit.epoch=3: there is no fit.epoch; did you mean fit.epochs"),
        ("+fit.epoch=3", "+fit.epoch=3: there is no fit.epoch; did you mean fit.epochs"),
        ("fit.epochs=-1", "fit.epochs=-1: must be an integer of at least 0  (in the configuration: fit)"),
        ("fit.epochs=0", "fit.epochs=0 does not train the network, but no weights are given"),
        ("seed=-1", "seed=-1: must be an integer of at least 0"),
        ("device=tpu", "device='tpu': must be auto, cpu, cuda or cuda:<number>"),
        ("precision=float8", "precision='float8': "),
        ("compile=maybe", "compile='maybe': must be true or false"),
        ("method=finetune method.lr=abc", "method.lr='abc': must be a number"),
        ("run=runs/x", "run=runs/…; to continue an interrupted run use resume=…"),
        ("resume=runs/x", "resume=runs/x: not a run folder with a stored configuration"),
    ],
)
def test_a_wrong_value_is_named_and_no_folder_is_left(argument: str, message: str, tmp_path: Path):
    text = fail(TRAIN, *SMOKE, *argument.split(), cwd=tmp_path)
    assert message in text
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_a_terminal_without_greek_letters(tmp_path: Path):
    env = environment(PYTHONIOENCODING="ascii")
    text = fail(TRAIN, *SMOKE, "activation.threshold=-1", cwd=tmp_path, env=env)
    assert r"threshold=-1: must be a positive number" in text
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_where_there_is_none(tmp_path: Path):
    assert "finds no CUDA device; use device=cpu or device=auto" in fail(TRAIN, *SMOKE, "device=cuda", cwd=tmp_path)
    assert not list(tmp_path.iterdir())


def test_evaluate_needs_a_run_with_a_network(tmp_path: Path):
    assert "run=… is missing" in fail(EVALUATE, cwd=tmp_path)
    assert "run=runs/x: not a run folder with a trained network" in fail(EVALUATE, "run=runs/x", cwd=tmp_path)
    assert not list(tmp_path.iterdir())


BAD_SETTINGS = {
    "epochs": [-1, 1.5, "many", True, None], "batch_size": [0, 2.5, "big"], "lr": [0, -0.1, "fast", math.nan, math.inf],
    "momentum": [-0.1, 1, "x"], "nesterov": ["maybe", 1], "weight_decay": [-1, None], "threshold_weight_decay": [-1],
    "norm_weight_decay": [-1, "x"], "schedule": ["steps"], "schedule_every": ["day"], "warmup_epochs": [-1, 3],
    "label_smoothing": [-0.1, 1], "clip_grad_norm": [0, -1], "ema": [-0.5, 1], "channels_last": ["yes"],
    "select": ["worst"],
}  # fmt: skip


def test_every_setting_of_training_is_checked_by_name():
    program = """
import json, sys
from snnconv.training.settings import Fit
for name, values in json.loads(sys.argv[1]).items():
    for value in values:
        try:
            Fit(**{"epochs": 2, "lr": 0.1, "batch_size": 4, name: value})
        except ValueError as error:
            print(error)
"""  # not in this process, where beartype would be faster
    command = [sys.executable, "-c", program, json.dumps(BAD_SETTINGS)]
    done = subprocess.run(command, env=environment(), text=True, capture_output=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == sum(map(len, BAD_SETTINGS.values()))
    for (name, value), line in zip([(n, v) for n, values in BAD_SETTINGS.items() for v in values], lines, strict=True):
        assert re.match(rf"fit\.{name}={re.escape(repr(value))}: ", line)


@pytest.mark.long
def test_data_that_are_not_there(tmp_path: Path):
    offline = environment(http_proxy="http://127.0.0.1:9", https_proxy="http://127.0.0.1:9")
    text = fail(TRAIN, "data=cifar10", "data.root=nowhere", "model=mlp", cwd=tmp_path, env=offline)
    assert "nowhere/cifar-10-batches-py lacks data_batch_1" in text
    assert "set data.root or SNNCONV_DATA to the folder that holds them" in text
    assert not list(tmp_path.iterdir())


class Explosive:
    """Runs a command when it is unpickled."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple:
        return subprocess.call, (["touch", str(self.flag)],)


def cifar(root: Path, **files: bytes) -> Path:
    """A folder with CIFAR-10's file names and twenty random images in each, except for the given contents."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    content = {"data": torch.randint(256, (20, 3072), dtype=torch.uint8).numpy(), "labels": [*range(10), *range(10)]}
    for name in [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]:
        (folder / name).write_bytes(files.get(name, pickle.dumps(content)))
    return root


@pytest.mark.long
def test_data_files_that_are_damaged_or_wrong(tmp_path: Path):
    flag = tmp_path / "exploded"
    cifar(tmp_path / "truncated", data_batch_2=pickle.dumps({"data": bytes(10**4)})[:5000])
    cifar(tmp_path / "foreign", data_batch_3=b"PK\x03\x04 some other file")
    cifar(tmp_path / "evil", test_batch=pickle.dumps(Explosive(flag)))
    cifar(tmp_path / "good")
    cwd = tmp_path / "work"
    cwd.mkdir()
    roots = ",".join(f"{tmp_path}/{name}" for name in ("truncated", "foreign", "evil", "good"))
    settings = ("data.valid=20", "data.calibration=20", "fit.epochs=1", "timesteps=1", "track=none", "model=mlp")
    text = fail(TRAIN, "-m", "data=cifar10", f"data.root={roots}", *settings, cwd=cwd)
    for name in ("truncated/cifar-10-batches-py/data_batch_2", "foreign/cifar-10-batches-py/data_batch_3",
                 "evil/cifar-10-batches-py/test_batch"):  # fmt: skip
        assert f"{tmp_path}/{name}: damaged, or not of the python version of CIFAR" in text
    assert "1 of 4 runs finished" in text  # so the made-up files are what a good file looks like
    assert not flag.exists()


def call(flag: Path) -> dict:
    """A piece of configuration that runs a command when it is built."""
    return {"_target_": "subprocess.call", "_args_": [["touch", str(flag)]]}


def change_json(path: Path, change) -> None:
    """Apply `change` to the content of a JSON file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.long
def test_stored_networks_that_are_damaged_foreign_old_or_evil(smoke: Path, tmp_path: Path):
    flag = tmp_path / "exploded"
    bad = {name: copy_run(smoke, tmp_path / name) for name in (
        "cut", "noise", "foreign", "no_network", "cut_json", "old", "evil", "hidden", "borrowed",
        "evil_yaml", "hidden_yaml", "cut_yaml", "old_yaml",
    )}  # fmt: skip
    expected = {}

    weights = bad["cut"] / "ann.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    expected["cut"] = f"{weights}: damaged, or not a safetensors file"
    weights = bad["noise"] / "ann.safetensors"
    weights.write_bytes(b"something else" * 100)
    expected["noise"] = f"{weights}: damaged, or not a safetensors file"
    change_json(bad["foreign"] / "ann.json", lambda c: c["config"]["model"].update(hidden=[16]))
    expected["foreign"] = f"{bad['foreign'] / 'ann.safetensors'} does not fit Sequential:"
    (bad["no_network"] / "ann.safetensors").unlink()
    expected["no_network"] = f"{bad['no_network']}: contains no ann.safetensors"
    (bad["cut_json"] / "ann.json").write_text((smoke / "ann.json").read_text()[:200])
    expected["cut_json"] = f"{bad['cut_json'] / 'ann.json'}: damaged, not valid JSON"
    change_json(bad["old"] / "ann.json", lambda c: c.update(format=0))
    expected["old"] = (
        f"{bad['old'] / 'ann.json'}: has format 0, but this version of snnconv reads format 1; use the version that wrote it"
    )

    change_json(bad["evil"] / "ann.json", lambda c: c["config"].update(model=call(flag)))
    expected["evil"] = "subprocess.call: this stored configuration calls code outside snnconv."
    hidden = f"${{oc.create:{{_target_:subprocess.call,_args_:[[touch,'{flag}']]}}}}"
    change_json(bad["hidden"] / "ann.json", lambda c: c["config"]["model"].update(activation=hidden))
    expected["hidden"] = "an interpolation is not permitted in a stored configuration"
    loader = {"_target_": "snnconv.runtime.checkpoint.load_ann", "run": str(bad["evil"]), "trust": ["subprocess"]}
    change_json(bad["borrowed"] / "ann.json", lambda c: c["config"].update(model=loader))
    expected["borrowed"] = "snnconv.runtime.checkpoint.load_ann: this stored configuration calls code outside"

    stored = (smoke / ".hydra" / "config.yaml").read_text()
    assert "_target_: snnconv.data.synthetic.synthetic" in stored
    evil = stored.replace("_target_: snnconv.data.synthetic.synthetic", f"_target_: os.mkdir\n  path: {flag}")
    (bad["evil_yaml"] / ".hydra" / "config.yaml").write_text(evil)
    expected["evil_yaml"] = "os.mkdir: this stored configuration calls code outside"
    (bad["hidden_yaml"] / ".hydra" / "config.yaml").write_text(stored.replace("train: 600", f'train: "{hidden}"'))
    expected["hidden_yaml"] = "subprocess.call: this stored configuration calls code outside"
    (bad["cut_yaml"] / ".hydra" / "config.yaml").write_text(stored[:300] + "\n  - {")
    expected["cut_yaml"] = f"{bad['cut_yaml'] / '.hydra' / 'config.yaml'}: damaged, not a configuration"
    (bad["old_yaml"] / ".hydra" / "config.yaml").write_text(stored.replace("\ntimesteps:", "\nsteps:"))
    expected["old_yaml"] = f"{bad['old_yaml'] / '.hydra' / 'config.yaml'}: has no timesteps"

    before = {name: files_in(folder) for name, folder in bad.items()}
    cwd = tmp_path / "work"
    cwd.mkdir()
    text = fail(EVALUATE, "-m", f"run={','.join(str(folder) for folder in bad.values())}", cwd=cwd)
    for name, message in expected.items():
        (line,) = [line for line in text.splitlines() if line.startswith(f"Failed: run={name}: ")]
        assert message in line
    assert f"0 of {len(bad)} runs finished" in text
    assert not flag.exists()
    for name, folder in bad.items():
        new = {path.split("/")[-1] for path in files_in(folder) - before[name]}
        assert new <= {"evaluate.log", "config.yaml", "hydra.yaml", "overrides.yaml"}, "something half-done was left"

    text = fail(EVALUATE, f"run={bad['evil_yaml']}", cwd=cwd)  # alone, it leaves nothing
    assert "os.mkdir: this stored configuration calls code outside" in text


def test_resume_files_that_are_damaged_foreign_old_or_evil(smoke: Path, tmp_path: Path):
    flag = tmp_path / "exploded"
    bad = {name: copy_run(smoke, tmp_path / name) for name in ("cut", "foreign", "old", "evil", "noise")}
    good = (smoke / "last.ckpt").read_bytes()
    (bad["cut"] / "last.ckpt").write_bytes(good[: len(good) // 2])
    (bad["noise"] / "last.ckpt").write_bytes(b"no checkpoint at all")
    torch.save(Explosive(flag), bad["evil"] / "last.ckpt")
    state = torch.load(smoke / "last.ckpt", weights_only=True)
    torch.save({**state, "format": 0}, bad["old"] / "last.ckpt")
    state["training"]["ann"] = {
        name: tensor[..., :1] for name, tensor in state["training"]["ann"].items() if tensor.dim()
    }
    torch.save(state, bad["foreign"] / "last.ckpt")
    before = {name: (folder / "last.ckpt").read_bytes() for name, folder in bad.items()}
    network = (smoke / "ann.safetensors").read_bytes()

    cwd = tmp_path / "work"
    cwd.mkdir()
    text = fail(TRAIN, "-m", f"resume={','.join(str(folder) for folder in bad.values())}", cwd=cwd)
    for name in ("cut", "noise", "evil"):
        assert f"Failed: resume={name}: {bad[name] / 'last.ckpt'}: damaged, or not a checkpoint of snnconv" in text
    assert f"{bad['old'] / 'last.ckpt'}: has format 0, but this version of snnconv reads format 1" in text
    assert f"{bad['foreign'] / 'last.ckpt'}: belongs to another run" in text
    assert not flag.exists()
    for name, folder in bad.items():  # nothing is lost
        assert (folder / "last.ckpt").read_bytes() == before[name]
        assert (folder / "ann.safetensors").read_bytes() == network


def test_a_folder_that_holds_a_run_is_not_run_into(smoke: Path, tmp_path: Path):
    folder = copy_run(smoke, tmp_path / "mine")
    before = outcome(folder)
    text = fail(TRAIN, *SMOKE, "levels=2", "hydra.run.dir=mine", cwd=tmp_path)
    assert "mine: contains a run; continue it with resume=mine, or choose another hydra.run.dir" in text
    text = fail(TRAIN, "resume=mine", "hydra.run.dir=other", cwd=tmp_path)
    assert "hydra.run.dir=other: a run is resumed in its own folder" in text
    with files.held(folder):  # as if it were still going on
        text = fail(TRAIN, "resume=mine", cwd=tmp_path)
    assert f"{folder}: another process is using this folder; wait until it ends" in text
    assert outcome(folder) == before
    assert {path.name for path in tmp_path.iterdir()} == {"mine"}


@pytest.mark.long
def test_resume_refuses_what_would_change_the_numbers(smoke: Path, tmp_path: Path):
    folder = copy_run(smoke, tmp_path / "mine")
    before = outcome(folder)
    for override in ("fit.epochs=5", "experiment=demo", "model=vgg11"):
        text = fail(TRAIN, "resume=mine", override, cwd=tmp_path)
        assert (
            f"{override}: this resumes a run unchanged, so only these settings may change: device, threads, data.root"
            in text
        )
        assert "To continue" not in text  # with the same mistake
    assert outcome(folder) == before
    again = ("experiment=smoke", "fit.epochs=2", "model=mlp", "levels=4", "data.test=100", "fit.batch_size=32")
    succeed(TRAIN, "resume=mine", *again, cwd=tmp_path)  # which is what it was begun with
    assert outcome(folder) == before


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path):
    text = fail(TRAIN, *SMOKE, "fit.lr=1e30", cwd=tmp_path)
    assert "the loss is not finite in epoch 1, by step 3 of 15; no network is saved yet" in text

    growing = (
        "fit.lr=1",
        "fit.weight_decay=5",
        "fit.threshold_weight_decay=5e-3",
        "fit.schedule=constant",
        "fit.warmup_epochs=0",
        "fit.epochs=9",
    )
    cwd = tmp_path / "later"
    cwd.mkdir()
    text = fail(TRAIN, *SMOKE, *growing, cwd=cwd)
    epoch = int(re.search(r"is not finite in epoch (\d)", text)[1])  # which one depends on how the machine rounds
    assert epoch > 1
    assert f"the best network of the first {epoch - 1} epochs is saved" in text
    folder = only_run(cwd)
    assert all(tensor.isfinite().all() for tensor in load_ann(folder).state_dict().values())
    assert json.loads((folder / "ann.json").read_text())["epoch"] < epoch
    state = torch.load(folder / "last.ckpt", weights_only=True)
    assert state["epoch"] == epoch - 1
    assert all(tensor.isfinite().all() for tensor in state["training"]["ann"].values())
    assert "Traceback" in (folder / "train.log").read_text()  # the error in full


def small_files() -> None:
    """Let this process write no file of more than 700 kB."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, 700_000))


@pytest.mark.long
def test_a_file_that_cannot_be_written_leaves_the_old_one(smoke: Path, tmp_path: Path):
    """The first last.ckpt fits; the second, with momentum in it, does not."""
    text = fail(TRAIN, *SMOKE, cwd=tmp_path, preexec_fn=small_files)
    folder = only_run(tmp_path)
    assert f"{folder / 'last.ckpt'}: could not be written (File too large); the old content is unchanged" in text
    assert files_in(folder) == files_in(smoke) - {
        "result.json",
        "accuracy_vs_timesteps.csv",
        "accuracy_vs_timesteps.png",
        "explanation.json",
        "report.html",
    }
    assert torch.load(folder / "last.ckpt", weights_only=True)["epoch"] == 0
    load_ann(folder)
    go_on(text, tmp_path)
    assert outcome(folder) == outcome(smoke)


@pytest.fixture
def disk(tmp_path: Path):
    """disk(options): a file system of its own, (re)mounted with these options.  Steps aside where one may not mount."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> Path:
        again = "remount," if folder.is_mount() else ""
        command = ["mount", "-t", "tmpfs", "-o", again + options, "tmpfs", str(folder)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting is not allowed here")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_fills_up_during_a_run(disk, smoke: Path):
    cwd = disk("size=1300k")
    text = fail(TRAIN, *SMOKE, cwd=cwd)
    folder = only_run(cwd)
    assert (
        f"{folder / 'last.ckpt'}: could not be written (No space left on device); the old content is unchanged" in text
    )
    assert not [name for name in files_in(folder) if name.endswith(".part")]
    load_ann(folder)
    disk("size=20m")
    go_on(text, cwd)
    assert outcome(folder) == outcome(smoke)


def test_a_full_or_read_only_disk_is_told_before_anything_starts(disk):
    cwd = disk("size=100k")
    (cwd / "other").write_bytes(bytes(80_000))
    text = fail(TRAIN, *SMOKE, cwd=cwd)
    assert "is not writable (No space left on device); choose another folder with hydra.run.dir=…" in text
    text = fail(TRAIN, "-m", *SMOKE, "levels=2,4", cwd=cwd)
    assert "is not writable (No space left on device); choose another folder with hydra.sweep.dir=…" in text
    disk("size=100k,ro")
    assert "cannot be created (Read-only file system); choose another folder with hydra.run.dir=…" in fail(
        TRAIN, *SMOKE, cwd=cwd
    )
    assert {path.name for path in cwd.iterdir()} == {"other"}


def test_a_run_folder_that_cannot_be_a_folder(tmp_path: Path):
    (tmp_path / "runs").write_text("a file")
    assert "cannot be created (Not a directory); choose another folder" in fail(TRAIN, *SMOKE, cwd=tmp_path)
    text = fail(TRAIN, *SMOKE, "hydra.run.dir=runs/here", cwd=tmp_path)
    assert "runs/here: is not writable (Not a directory); choose another folder with hydra.run.dir=…" in text
    assert (tmp_path / "runs").read_text() == "a file"


def test_a_path_that_reads_as_a_reference_is_refused_and_a_reference_works(tmp_path: Path):
    for word, refused in {
        "data.root=a${b}": "data.root=a${b}: Interpolation key 'b' not found",
        "hydra.run.dir=a${b}": "hydra.run.dir=a${b}: Interpolation key 'b' not found",
        r"hydra.run.dir=a\${b}": "cannot contain ${",
        r"names.model=a\${b}": "names.model=a${b}: ${…} refers to another setting",
    }.items():
        text = fail(
            TRAIN,
            "model=mlp",
            "track=none",
            "data=fashion_mnist" if "root" in word else "data=digits",
            word,
            cwd=tmp_path,
        )
        assert refused in text, text
        assert "paths and names cannot contain ${; rename the file or folder" in text
        assert "Warning" not in text
        assert not list(tmp_path.iterdir())
    assert "run=a${b}: " in fail(EVALUATE, "run=a${b}", cwd=tmp_path)
    (tmp_path / "a${b}").mkdir()
    assert "working directory=" in fail(TRAIN, *SMOKE, cwd=tmp_path / "a${b}")
    settings = ("timesteps=${levels}", "levels=3", "hydra.run.dir=runs/L${levels}", "explain.images=0")
    succeed(TRAIN, *SMOKE, *settings, cwd=tmp_path)
    assert [*json.loads((tmp_path / "runs" / "L3" / "result.json").read_text())["snn_accuracy"]] == ["1", "2", "3"]
    succeed(EVALUATE, "run=runs/L3", "timesteps=${levels}", "explain.images=0", cwd=tmp_path)
