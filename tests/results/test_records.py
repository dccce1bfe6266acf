"""Result files are typed when read and written; files of other versions load, and lose nothing when written again."""

from dataclasses import fields
from pathlib import Path

import pytest
from test_leaderboard import content, result

from snnconv.results.records import Baseline, IntegerResult, Result, read
from snnconv.runtime import environment, files

STUDIES = Path(__file__).parents[2] / "experiments"
KINDS = {"results": Result, "baselines": Baseline, "integers": IntegerResult}


RECORDS = sorted(
    path for path in STUDIES.glob("*/*.jsonl") if path.stem in KINDS
)  # other studies have lines of their own


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_recorded_line_loads_and_is_written_as_it_was(path):
    """Keys that the line lacks are written with the value that means: not recorded."""
    absent = (None, {}, [], "")
    for record, line in zip(read(KINDS[path.stem], path), files.read_lines(path), strict=True):
        written = record.as_dict()
        assert {key: value for key, value in written.items() if key in line} == line
        assert all(value in absent for key, value in written.items() if key not in line)


def test_keys_of_another_version_are_kept():
    newer = content() | {"colour": "blue"}
    assert Result.from_dict(newer).others == {"colour": "blue"}
    assert Result.from_dict(newer).as_dict()["colour"] == "blue"
    assert Result.from_dict(result().as_dict(), result().source) == result()


def test_times_are_integers_in_python_and_text_in_json():
    assert result(curve=(0.5, 0.75)).snn_accuracy == {1: 0.5, 2: 0.75}
    assert result(curve=(0.5, 0.75)).as_dict()["snn_accuracy"] == {"1": 0.5, "2": 0.75}


@pytest.mark.parametrize("kind", [Result, Baseline, IntegerResult])
def test_provenance_has_a_place_in_every_kind(kind):
    assert set(environment.provenance(0, "cpu", "float32")) <= {each.name for each in fields(kind)}
    assert environment.provenance(3, "cpu", "tf32")["seed"] == 3
