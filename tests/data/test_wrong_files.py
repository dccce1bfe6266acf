"""Wrong files and settings of a user's data: named with file, line or shape, and the remedy."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from snnconv.data.array_files import arrays_in
from snnconv.data.arrays import read
from snnconv.data.csv_file import rows_of
from snnconv.data.event_frames import recording_of
from snnconv.data.events import read as read_events
from snnconv.data.images import find, parts
from snnconv.data.samples import as_targets
from snnconv.data.signals import ecg
from snnconv.data.splits import cut
from snnconv.data.table import read as read_table

EVENTS = {"t": np.arange(8), "x": np.arange(8) % 4, "y": np.arange(8) % 4, "p": np.arange(8) % 2}


@pytest.mark.parametrize(
    ("events", "text"),
    [
        ({"p": EVENTS["p"] * 2 - 1}, r"polarities p are −1 and 1, expected 0 and 1; store \(p \+ 1\) // 2"),
        ({"t": EVENTS["t"][::-1]}, r"t decreases between events; sort the events by time"),
        ({"x": EVENTS["x"][:5]}, r"t \[8\], x \[5\], y \[8\], p \[8\]; expected four arrays of the same length"),
        ({"x": EVENTS["x"] + 2}, r"x in 2…5, .* expected x in 0…3, y in 0…3, p in 0…1 \(data\.size"),
        ({"x": np.array([None] * 8, dtype=object)}, "not an .npz file of plain arrays"),
        ({"x": np.array(["a"] * 8)}, "x is an array of <U1; expected numbers"),
        ({"frames": np.full((2, 2, 4, 4), np.nan)}, "frames contain NaN or infinity"),
    ],
)
def test_events(tmp_path: Path, events, text):
    np.savez(tmp_path / "one.npz", **{**({} if "frames" in events else EVENTS), **events})
    with pytest.raises(ValueError, match=rf"one\.npz: .*{text}"):
        recording_of(tmp_path / "one.npz", 2, [4, 4])


def test_settings():
    with pytest.raises(ValueError, match=r"data\.size=\[8\]: expected \[height, width\]"):
        read_events("nowhere", "folder", 4, 1, 0.1, [8])
    with pytest.raises(ValueError, match=r"data\.length=4: .* at least 32"):
        ecg(train=8, test=8, length=4, noise=0.1)


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (["a,kind", "1,x", "", "3", "4,y"], "line 4 has 1 cells, but there are 2 column names"),
        (["a;kind", "1,5;x", "2;y"], "line 2, column a: got '1,5', .*use a decimal point"),
        (["a,kind", *(f"{n},{n * 1.5}" for n in range(30))], "column kind holds 30 different values in 30 rows, .*task=regress"),
    ],
)  # fmt: skip
def test_tables(tmp_path: Path, lines, text):
    (tmp_path / "x.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=rf"x\.csv: .*{text}"):
        read_table(str(tmp_path / "x.csv"), "kind", [], "classes")


def test_a_cell_may_hold_a_line_break_in_quotes(tmp_path: Path):
    """And lines are counted as in the file."""
    (tmp_path / "x.csv").write_text('a,kind\n1,"x\ny"\n2,z\n')
    assert [row.line for row in rows_of(tmp_path / "x.csv")[1]] == [3, 4]


def test_arrays(tmp_path: Path):
    np.savez(tmp_path / "empty.npz", x=np.zeros((0, 3)), y=np.zeros(0, int))
    with pytest.raises(ValueError, match=r"empty\.npz: inputs have the shape \[0, 3\], so there are no samples"):
        read(tmp_path, "empty.npz", "train")
    with pytest.raises(ValueError, match=r"y\.npy: targets are a single number"):
        as_targets(torch.tensor(3), "classes", "y.npy")
    maps = torch.ones(2, 1, 4, 4, dtype=torch.uint8)
    for each in (maps, maps.movedim(1, 3)):
        assert as_targets(each, "classes", "").shape == (2, 4, 4)
    assert as_targets(maps, "numbers", "").shape == (2, 1, 4, 4)
    np.savez(tmp_path / "text.npz", x=np.array(["a"]))
    with pytest.raises(ValueError, match=r"text\.npz: .*an array of <U1"):
        arrays_in(tmp_path / "text.npz")


def test_labels_out_of_range():
    pair = torch.rand(6, 2), torch.tensor([0, 1, 7, 1, 0, 7])
    facts = {"input_shape": [2], "mean": [0.0], "std": [1.0], "batch_size": 2, "seed": 0, "device": "cpu"}
    with pytest.raises(
        ValueError, match=r"own: training label 7 \(2 such labels\), expected 0…2 \(data\.num_classes=3"
    ):
        cut("own", pair, pair, num_classes=3, valid=1, calibration=1, **facts)


def test_folders(tmp_path: Path, caplog):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.fromarray(np.full((4, 4, 3), 40 * number, np.uint8)).save(tmp_path / name / f"{number}.png")
    for name in ("empty", ".cache"):
        (tmp_path / name).mkdir()
    with caplog.at_level(logging.WARNING):
        assert {name for _, name in parts(tmp_path, 0.5, warn=True)["train"]} == {"a", "b"}
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [str(tmp_path / "empty")]
    for size in (0, [8], [8, -1]):
        with pytest.raises(
            ValueError, match=r"data\.image_size=.*: expected the side of a square, such as 64, or \[height, width\]"
        ):
            find(root=str(tmp_path), test=0.5, image_size=size)
    (tmp_path / "other" / "c").mkdir(parents=True)
    (tmp_path / "other" / "c" / "x.heic").write_bytes(b"")
    with pytest.raises(
        FileNotFoundError, match=r"other: no images \(files of type \.jpg, .*\.webp\) in its subfolders"
    ):
        parts(tmp_path / "other", 0.5)
