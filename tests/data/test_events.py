"""Events as frames: counted by hand, read from files in the published layout, and what is said of wrong files."""

import importlib.machinery
import sys
import types

import numpy as np
import pytest
import torch

from snnconv.data.event_frames import integrated
from snnconv.data.events import events, find, read

SETTINGS = {"set": "folder", "frames": 4, "pool": 1, "test": 0.5, "size": [6, 8]}
PLAIN = {"valid": 0, "calibration": 100, "batch_size": 2, "seed": 0, "device": "cpu"}


def recording(seed: int, count: int = 50) -> dict:
    g = np.random.default_rng(seed)
    return {"t": np.sort(g.integers(0, 10**6, count)), "x": g.integers(0, 8, count), "y": g.integers(0, 6, count),
            "p": g.integers(0, 2, count)}  # fmt: skip


def write(folder, each=3):
    for part, number in (("train", each), ("test", 2)):
        for label, name in enumerate(("clap", "wave")):
            (folder / part / name).mkdir(parents=True)
            for n in range(number):
                np.savez(folder / part / name / f"{n}.npz", **recording(100 * label + 10 * n + len(part)))


def test_events_are_counted_in_parts_of_equally_many():
    recorded, frames = recording(0), torch.zeros(4, 2, 6, 8)
    for i in range(50):
        frames[min(i // 12, 3), recorded["p"][i], recorded["y"][i], recorded["x"][i]] += 1
    torch.testing.assert_close(integrated(recorded, 4, 6, 8), frames, rtol=0, atol=0)


def test_files_of_events_become_splits(tmp_path):
    write(tmp_path)
    facts = find(root=str(tmp_path), **SETTINGS)
    assert (facts["class_names"], facts["input_shape"], facts["mean"]) == (["clap", "wave"], [4, 2, 6, 8], [0.0])
    data = events(str(tmp_path), **SETTINGS, **facts, **PLAIN)
    assert [data.train.count, data.test.count] == [6, 4]
    expected = integrated(recording(100 + 10 + len("test")), 4, 6, 8)
    shown = torch.cat([x for x, _ in data.test])[3]
    torch.testing.assert_close(shown / shown[shown > 0].min(), expected)
    train = torch.cat([x for x, _ in data.train])
    assert train.square().mean().item() == pytest.approx(1, rel=1e-4)


def test_pixels_are_added_up(tmp_path):
    write(tmp_path)
    (one, _), _, _ = read(str(tmp_path), "folder", 4, 1, 0.5, [6, 8])
    (two, _), _, _ = read(str(tmp_path), "folder", 4, 2, 0.5, [6, 8])
    assert two.shape == (6, 4, 2, 3, 4)
    torch.testing.assert_close(two.sum((2, 3, 4)), one.sum((2, 3, 4)))


def test_published_sets_are_read_by_spikingjelly(tmp_path, monkeypatch):
    """From the folder of events that it makes of the published files; its own division into frames is ours.

    Its package imports torchaudio, which these sets do not need.
    """
    audio = types.ModuleType("torchaudio")
    audio.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
    for name in ("torchaudio", "torchaudio.transforms", "torchaudio.datasets", "torchaudio.functional"):
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        module.__file__, module.__path__ = "torchaudio.py", []
        module.__getattr__ = lambda attribute: object
        monkeypatch.setitem(sys.modules, name, module)
    try:
        import spikingjelly.datasets.n_mnist  # noqa: F401
    except Exception as error:
        pytest.skip(f"spikingjelly.datasets: {error}")
    write(tmp_path / "events_np")
    train, test, classes = read(str(tmp_path), "nmnist", 4, 1, 0.5)
    own, own_test, own_classes = read(str(tmp_path / "events_np"), "folder", 4, 1, 0.5, [34, 34])
    assert classes == own_classes
    for one, other in ((train, own), (test, own_test)):
        torch.testing.assert_close(one[0].float(), other[0].float(), rtol=0, atol=0)
        assert one[1].tolist() == other[1].tolist()


@pytest.mark.parametrize(("content", "text"), [
    ({"a": np.zeros(3)}, r"bad\.npz: holds a; expected frames, or t, x, y, p"),
    ({"frames": np.zeros((3, 2, 6, 8))}, r"frames \[3, 2, 6, 8\]; expected \[4, C, H, W\]"),
    ({"frames": np.zeros((4, 2, 5, 8))}, r"frames have shape \[4, 2, 5, 8\], those of other files \[4, 2, 6, 8\]"),
    (recording(0, 3), "3 events, expected at least data.frames=4"),
    ({**recording(0), "x": np.full(50, 9)}, r"bad\.npz: x in 9…9, .* expected x in 0…7, y in 0…5, p in 0…1"),
])  # fmt: skip
def test_wrong_recordings_are_named(tmp_path, content, text):
    write(tmp_path)
    np.savez(tmp_path / "train" / "wave" / "bad.npz", **content)
    with pytest.raises(ValueError, match=text):
        read(str(tmp_path), "folder", 4, 1, 0.5, [6, 8])


def test_missing_folders_and_sets_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train: no such folder; data\.root holds train/ and test/"):
        read(str(tmp_path), "folder", 4, 1, 0.5)
    with pytest.raises(ValueError, match=r"data\.set='mnist': must be nmnist, dvs_gesture, cifar10_dvs or folder"):
        read(str(tmp_path), "mnist", 4, 1, 0.5)
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "train" / "a" / "0.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"0\.npz: damaged"):
        read(str(tmp_path), "folder", 4, 1, 0.5)
