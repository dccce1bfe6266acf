"""Settings of the launcher for Slurm, and what it says without submitit; the CLI tests run a sweep with it."""

import sys

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf

from hydra_plugins.snnconv_submitit import SubmititLauncher


def test_settings_of_one_cluster_get_its_name():
    launcher = SubmititLauncher(
        "slurm", "there", timeout_min=5, partition="gpu", qos=None, setup=OmegaConf.create(["module load"])
    )
    assert launcher.parameters == {"timeout_min": 5, "slurm_partition": "gpu", "slurm_setup": ["module load"]}


def test_without_submitit_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    launcher = SubmititLauncher("local", str(tmp_path))
    launcher.setup(
        hydra_context=None, task_function=None, config=OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
    )
    with pytest.raises(HydraException, match=r"pip install 'snnconv\[cluster\]'"):
        launcher.launch([["levels=4"]], 0)
