"""The demo reaches on any machine the row that README shows."""

import json
import statistics
from pathlib import Path

import pytest
from command import ROOT, TRAIN, succeed

from snnconv.results.records import Result, read

STUDY = ROOT / "experiments" / "digits_demo" / "results.jsonl"
IMAGE = 1 / 360  # accuracy of one test image


@pytest.mark.slow
def test_the_demo_reaches_its_row(tmp_path: Path):
    """Within three standard deviations and an image of the recorded mean, at few and at many timesteps."""
    recorded = read(Result, STUDY)
    succeed(
        TRAIN,
        "experiment=demo",
        "seed=10",
        "track=none",
        "explain.images=0",
        f"hydra.run.dir={tmp_path}/demo",
        cwd=tmp_path,
        timeout=1800,
    )
    reached = Result.from_dict(json.loads((tmp_path / "demo" / "result.json").read_text()))
    for t in (1, 2, 4, 8, 32):
        values = [result.snn_accuracy[t] for result in recorded]
        margin = 3 * statistics.stdev(values) + IMAGE
        assert abs(reached.snn_accuracy[t] - statistics.fmean(values)) <= margin, t


def test_the_row_has_five_seeds_and_two_numbers_of_threads():
    recorded = read(Result, STUDY)
    assert {result.seed for result in recorded} >= set(range(5))
    assert {result.threads for result in recorded} >= {1, 2}
    assert len({result.network["recipe"] for result in recorded}) == 1
