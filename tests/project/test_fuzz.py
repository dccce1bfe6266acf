"""Random networks and damaged run folders: some seeds of scripts/fuzz.py, and all that ever found something."""

from pathlib import Path

import pytest
import torch
from fuzzing import files, networks

from snnconv.runtime import launch

STORED = Path(__file__).parents[1] / "stored_runs"
RUNS = ("mlp", "interrupted", "relu", "compressed")
FOUND = (46,)  # seeds of damaged files with a traceback
FOUND_NETWORKS = (229,)  # seeds of networks that were wrong, or refused without words


@pytest.mark.slow
@pytest.mark.parametrize("seed", [*range(6), *FOUND_NETWORKS])
def test_a_random_network_is_refused_in_words_or_right(seed):
    assert networks.finding(seed) is None


@pytest.mark.parametrize("seed", [*range(40), *FOUND])
def test_a_damaged_run_is_refused_in_words_and_runs_nothing(seed, tmp_path):
    launch.register()
    assert files.finding(seed, STORED / RUNS[seed % len(RUNS)], tmp_path) is None


def test_the_laws_see_a_wrong_network(monkeypatch):
    monkeypatch.setattr(
        networks.snnconv, "convert", lambda network, x, **settings: lambda x, t: torch.zeros(t, len(x), 3)
    )
    monkeypatch.setattr(networks.snnconv, "check", lambda *a, **k: type("Check", (), {"obstacles": []}))
    assert "differ by" in networks.finding(0)
