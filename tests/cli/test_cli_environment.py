"""Commands where the surroundings lack something: no home, no place for caches, no compiler, warnings that are errors."""

from pathlib import Path

import pytest
from command import CHECK, EVALUATE, SMOKE, TRAIN, copy_run, environment, fail, only_run, run, succeed
from command import FRESH as FRESHLY

from snnconv.runtime import home

pytestmark = [pytest.mark.cli, pytest.mark.long]
RUN_SCRIPT = "runpy.run_path(sys.argv.pop(1), run_name='__main__')"
FRESH = {**FRESHLY, "timeout": 300}
QUICK = (*SMOKE, "fit.epochs=1", "timesteps=2", "explain.images=20")


def surroundings(*unset: str, **changes: str) -> dict[str, str]:
    """The environment without some variables, and with no cache of a user."""
    left_out = {*unset, "XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR", *home.CACHES}
    return {key: value for key, value in environment(**changes).items() if key not in left_out}


def in_its_own(tmp_path: Path, env: dict[str, str], *arguments: str, script: Path = TRAIN) -> str:
    return succeed(script, *arguments, cwd=tmp_path, env=env, **FRESH)


def without_programs(tmp_path: Path) -> str:
    """A $PATH on which there is no compiler."""
    (tmp_path / "bin").mkdir()
    return str(tmp_path / "bin")


@pytest.mark.parametrize("track", ["none", "wandb"])
def test_no_home(tmp_path: Path, track: str):
    text = in_its_own(tmp_path, surroundings("HOME", "USER", "LOGNAME"), *QUICK, f"track={track}")
    assert (only_run(tmp_path) / "report.html").is_file()
    assert len(text.splitlines()) < 40


@pytest.mark.parametrize("place", ["/proc/home", "file/home"])
def test_a_home_that_cannot_be_written(tmp_path: Path, place: str):
    (tmp_path / "file").write_text("no folder")
    env = surroundings(HOME=str(tmp_path / place))
    text = in_its_own(tmp_path, env, *QUICK, "track=wandb")
    assert len(text.splitlines()) < 40
    in_its_own(tmp_path, env, f"run={only_run(tmp_path)}", "simulate.schedule=layer", "timesteps=2", script=EVALUATE)


def test_no_folder_for_temporary_files(tmp_path: Path):
    """Not one can be written, as on a full disk: one line."""
    lines = ("import runpy, sys, tempfile", "tempfile._candidate_tempdir_list = lambda: ['/proc/none']", RUN_SCRIPT)
    (tmp_path / "program.py").write_text("\n".join(lines))
    env = surroundings(HOME="/proc/home")
    text = fail(tmp_path / "program.py", str(TRAIN), *QUICK, cwd=tmp_path, env=env, **FRESH)
    assert "temporary" in text
    assert len(text.splitlines()) == 1


def test_no_compiler(tmp_path: Path):
    """Convolutions are dense then; what has to be compiled is refused before anything is trained, in a line."""
    env = surroundings(PATH=without_programs(tmp_path), HOME=str(tmp_path), CXX="", CC="")
    in_its_own(tmp_path, env, *QUICK, "model=vgg11", "data.train=240", "track=none")
    for option in ("simulate.compile=default", "compile=true"):
        done = run(TRAIN, *QUICK, option, "track=none", cwd=tmp_path, env=env, **FRESH)
        assert done.status == 1, done.output
        assert "Traceback" not in done.output
        assert "compiler" in done.output
        assert "epoch 1/1" not in done.output
    text = fail(CHECK, *QUICK, "simulate.compile=default", cwd=tmp_path, env=env, **FRESH)
    assert "Obstacle 1: torch.compile finds no C++ compiler" in text


def test_a_cache_of_torch_that_cannot_be_written(tmp_path: Path):
    env = surroundings("TMPDIR", TORCHINDUCTOR_CACHE_DIR="/proc/none", HOME=str(tmp_path))
    env["TORCHINDUCTOR_CACHE_DIR"] = "/proc/none"
    done = run(TRAIN, *QUICK, "compile=true", "track=none", cwd=tmp_path, env=env, **FRESH)
    assert "Traceback" not in done.output
    assert done.status == 0 or "/proc/none" in done.output


def test_a_user_without_a_name(tmp_path: Path):
    """As in a container that is started with a number for a user."""
    lines = (
        "import pwd, runpy, sys",
        "def unknown(number): raise KeyError(number)",
        "pwd.getpwuid = unknown",
        RUN_SCRIPT,
    )
    (tmp_path / "program.py").write_text("\n".join(lines))
    env = surroundings("HOME", "USER", "LOGNAME", "LNAME", "USERNAME")
    text = succeed(tmp_path / "program.py", str(TRAIN), *QUICK, "track=wandb", cwd=tmp_path, env=env, **FRESH)
    assert len(text.splitlines()) < 40
    assert {path.name for path in tmp_path.iterdir()} == {"program.py", "runs"}


def test_warnings_as_errors(tmp_path: Path):
    """Of this package and of how it calls others; what other packages do among themselves is theirs."""
    in_its_own(tmp_path, surroundings(PYTHONWARNINGS="error"), *QUICK, "track=none")
    in_its_own(
        tmp_path, surroundings(PYTHONWARNINGS="error"), f"run={only_run(tmp_path)}", "timesteps=2", script=EVALUATE
    )


def test_no_locks_of_files(tmp_path: Path):
    """As on Windows, where there is no fcntl: two commands in one folder are then the user's concern."""
    (tmp_path / "program.py").write_text(f"import sys, runpy\nsys.modules['fcntl'] = None\n{RUN_SCRIPT}")
    text = run(tmp_path / "program.py", str(TRAIN), *QUICK, "track=none", cwd=tmp_path, **FRESH)
    assert text.status == 0, text.output
    copy_run(only_run(tmp_path), tmp_path / "copy")
