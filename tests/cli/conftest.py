"""Runs that many tests look at, made once."""

from collections.abc import Callable
from pathlib import Path

import pytest
from command import FRESH, LONG, SMOKE, TRAIN, only_run, succeed
from filelock import FileLock


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Callable[[str, tuple[str, ...]], Path]:
    """once(name, arguments): the folder in which `train.py` ran with them, also when several pytest workers ask."""
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent

    def make(name: str, arguments: tuple[str, ...]) -> Path:
        cwd = shared / name
        with FileLock(shared / f"{name}.lock"):
            if not (cwd / "runs").exists():
                cwd.mkdir()
                succeed(TRAIN, *arguments, cwd=cwd, **FRESH)
        return cwd

    return make


@pytest.fixture(scope="session")
def smoke(once) -> Path:
    """A finished `experiment=smoke`; look, do not touch."""
    return only_run(once("smoke", SMOKE))


@pytest.fixture(scope="session")
def uninterrupted(once) -> Path:
    """An uninterrupted run, the reference for interrupted ones; tests must not change it."""
    return only_run(once("uninterrupted", LONG))
