"""The package as `pip install .` makes it: a wheel in an environment of its own, used from an empty folder."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from command import ROOT, environment, files_in, only_run

from snnconv.commands import COMMANDS

pytestmark = [pytest.mark.cli, pytest.mark.long]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment with the wheel; what it depends on is borrowed from the environment of the tests."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    for name in ("snnconv", "conf", "zoo", "hydra_plugins"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    shutil.rmtree(source)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "env")], check=True)
    python = folder / "env" / "bin" / "python"
    (wheel,) = folder.glob("*.whl")
    subprocess.run(
        [*pip, f"--python={python}", "install", "--no-deps", "--ignore-installed", str(wheel)],
        check=True,
        capture_output=True,
    )
    where = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(where, check=True, capture_output=True, text=True).stdout.strip())
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    return python.parent


def run(program: Path, *arguments: str, cwd: Path) -> str:
    env = {key: value for key, value in environment(COLUMNS="80").items() if key != "PYTHONPATH"}
    done = subprocess.run([str(program), *arguments], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_command_says_what_it_does(installed: Path, tmp_path: Path):
    assert all(f"snnconv {name} " in run(installed / "snnconv", "--help", cwd=tmp_path) for name in COMMANDS)
    for name in COMMANDS:
        assert f"snnconv {name}" in run(installed / "snnconv", name, "--help", cwd=tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_zoo_is_installed(installed: Path, tmp_path: Path):
    text = run(installed / "python", "-c", "import snnconv; print(snnconv.load('digits_mlp_qcfs_l4'))", cwd=tmp_path)
    assert "QCFS(levels=4" in text


def test_train_evaluate_and_check_outside_a_checkout(installed: Path, tmp_path: Path):
    """With a yaml of the user's own, and every command printed for the way in which the program was started."""
    (tmp_path / "mine" / "fit").mkdir(parents=True)
    (tmp_path / "mine" / "fit" / "one.yaml").write_text("defaults: [default, _self_]\nepochs: 1\n")
    snnconv = installed / "snnconv"
    text = run(snnconv, "train", "--config-dir=mine", "model=mlp", "fit=one", "track=none", "timesteps=2", cwd=tmp_path)
    folder = only_run(tmp_path)
    assert text.rstrip().splitlines()[-1].startswith(f"Run folder: {folder.relative_to(tmp_path)}")
    assert max(map(len, text.splitlines()[2:])) <= 132
    assert "snnconv train --config-dir=mine model=mlp" in (folder / "result.json").read_text()
    assert {"result.json", "report.html", "train.log"} <= files_in(folder)
    arguments = (
        f"run={folder.relative_to(tmp_path)}",
        "method=srp,qcfs",
        "timesteps=2",
        "explain.images=0",
        "track=none",
    )
    assert "2 of 2 runs finished" in run(snnconv, "evaluate", *arguments, cwd=tmp_path)
    assert "can be converted by method=qcfs" in run(snnconv, "check", "model=mlp", cwd=tmp_path)
    assert "can be converted" in run(installed / "python", "-m", "snnconv", "check", "model=mlp", cwd=tmp_path)
    assert set(os.listdir(tmp_path)) == {"mine", "runs"}
