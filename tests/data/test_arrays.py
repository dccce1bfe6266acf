"""A user's own arrays: every file type, rank and type of number; what is found in them, and what is said of wrong ones."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from snnconv.data.arrays import arrays, find
from snnconv.data.facts import moments
from snnconv.data.samples import as_targets

SETTINGS = {"test": None, "layout": "auto", "targets": "classes"}


def load(root, train, **changes):
    """The Splits that `data=arrays` gives, and what was found."""
    settings = {**SETTINGS, **{key: changes.pop(key) for key in SETTINGS if key in changes}}
    facts = find(root=str(root), train=train, **settings)
    options = {"calibration": 1000, "batch_size": 4, "seed": 0, "device": "cpu", **changes}
    return arrays(str(root), train, **settings, **{**facts, **options}), facts


def values(batches) -> torch.Tensor:
    return torch.cat([inputs for inputs, _ in batches])


def sample(count=20, shape=(3, 4, 4), dtype=np.float32, seed=0):
    numbers = np.random.default_rng(seed).integers(0, 200, (count, *shape))
    return numbers.astype(dtype), np.arange(count) % 4


@pytest.mark.parametrize("kind", ["npz", "npy", "pt", "safetensors", "pair.pt"])
def test_every_file_type_gives_the_same_samples(tmp_path, kind):
    x, y = sample()
    source = f"own.{kind}"
    if kind == "npz":
        np.savez(tmp_path / source, x=x, y=y)
    elif kind == "npy":
        np.save(tmp_path / "x.npy", x)
        np.save(tmp_path / "y.npy", y)
        source = ["x.npy", "y.npy"]
    elif kind == "safetensors":
        save_file({"images": torch.tensor(x), "labels": torch.tensor(y)}, tmp_path / source)
    elif kind == "pt":
        torch.save({"x": torch.tensor(x), "y": torch.tensor(y)}, tmp_path / source)
    else:
        torch.save((torch.tensor(x), torch.tensor(y)), tmp_path / source)
    data, facts = load(tmp_path, source, mean=[0.0], std=[1.0], valid=0.25, test=4)
    assert (facts["num_classes"], facts["input_shape"]) == (4, [3, 4, 4])
    assert [data.train.count, data.valid.count, data.test.count] == [12, 4, 4]
    assert data.test.labels.bincount().tolist() == [1, 1, 1, 1]
    every = torch.cat([values(part) for part in (data.train, data.valid, data.test)])
    torch.testing.assert_close(every.flatten(1).sort(0)[0], torch.tensor(x).flatten(1).sort(0)[0], rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(5,), (2, 9), (3, 4, 4), (1, 3, 4, 5)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float16, np.float64, ">f4"])
def test_moments_are_those_of_each_channel_for_every_rank_and_type(tmp_path, shape, dtype):
    x, y = sample(shape=shape, dtype=dtype)
    np.savez(tmp_path / "own.npz", x=x, y=y)
    data, facts = load(tmp_path, "own.npz", layout="first", test=0.2, valid=0)
    shown = torch.cat([values(data.train)])
    by_channel = shown.transpose(0, 1).flatten(1).double()
    torch.testing.assert_close(by_channel.mean(1), torch.zeros(shape[0]).double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(by_channel.std(1, correction=0), torch.ones(shape[0]).double(), rtol=1e-4, atol=0)
    assert (facts["std"][0] < 1) == (dtype == np.uint8)  # pixels in 0…1


def test_pixels_are_scaled_and_floats_are_not(tmp_path):
    for name, dtype in {"pixels": np.uint8, "floats": np.float32}.items():
        x, y = sample(dtype=dtype)
        np.savez(tmp_path / f"{name}.npz", x=x, y=y)
    as_they_are = {"mean": [0.0], "std": [1.0]}
    pixels, floats = (load(tmp_path, f"{name}.npz", **as_they_are)[0] for name in ("pixels", "floats"))
    torch.testing.assert_close(values(pixels.test) * 255, values(floats.test))


def test_a_constant_channel_is_left_alone():
    assert moments(torch.full((4, 2), 7.0)) == ([7.0, 7.0], [1.0, 1.0])
    assert moments(torch.full((4, 2, 3), 255, dtype=torch.uint8)) == ([1.0, 1.0], [1.0, 1.0])


def test_the_test_part_of_a_file_is_taken(tmp_path):
    (x, y), (u, v) = sample(), sample(6, seed=1)
    np.savez(tmp_path / "mnist.npz", x_train=x, y_train=y, x_test=u, y_test=v)
    data, _ = load(tmp_path, "mnist.npz", mean=[0.0], std=[1.0])
    torch.testing.assert_close(values(data.test), torch.tensor(u), rtol=0, atol=0)
    np.savez(tmp_path / "other.npz", x=u, y=v)
    np.savez(tmp_path / "train.npz", x=x, y=y)
    data, _ = load(tmp_path, "train.npz", test="other.npz", valid="other.npz", mean=[0.0], std=[1.0])
    assert [data.train.count, data.valid.count, data.test.count] == [20, 6, 6]
    torch.testing.assert_close(values(data.valid), values(data.test), rtol=0, atol=0)


def test_targets_of_every_kind():
    """Classes, maps of classes, labels, numbers, maps of numbers."""
    assert as_targets(torch.tensor([[1], [0]], dtype=torch.uint8), "classes", "").tolist() == [1, 0]
    assert as_targets(torch.zeros(2, 4, 4, dtype=torch.uint8), "classes", "").dtype == torch.int64
    assert as_targets(torch.tensor([[True, False]]), "classes", "").tolist() == [[1.0, 0.0]]
    assert as_targets(torch.tensor([1.5, 2.0]), "classes", "").shape == (2, 1)
    assert as_targets(torch.tensor([1, 2]), "numbers", "").tolist() == [[1.0], [2.0]]
    assert as_targets(torch.zeros(2, 4, 4), "classes", "").shape == (2, 1, 4, 4)


def test_numbers_are_measured_and_kept_as_they_are(tmp_path):
    x, _ = sample()
    y = np.linspace(10, 30, 20)
    np.savez(tmp_path / "own.npz", x=x, y=y)
    data, facts = load(tmp_path, "own.npz", valid=0)
    assert facts["num_classes"] == 1
    assert facts["target_mean"][0] == pytest.approx(data.train.labels.mean().item(), rel=1e-5)
    assert sorted(torch.cat([data.train.labels, data.test.labels]).flatten().tolist()) == pytest.approx(y.tolist())


@pytest.mark.parametrize(
    ("content", "settings", "text"),
    [
        ({"x": np.zeros((4, 8, 8, 3)), "y": np.zeros(4, int)}, {}, "look like channels last; set data.layout=last"),
        ({"x": np.zeros((4, 8, 8), np.uint8), "y": np.zeros(4, int)}, {}, r"data.layout=none for grey images"),
        ({"x": np.zeros(4), "y": np.zeros(4, int)}, {}, r"inputs have shape \[4\]; expected \[M, C"),
        ({"x": np.zeros((4, 2)), "y": np.zeros(3, int)}, {}, "4 inputs, but 3 targets"),
        ({"x": np.zeros((4, 2)), "y": np.array([0, 1, -1, 0])}, {}, "target -1 in row 2"),
        ({"x": np.array([[0, 0], [0, np.nan]]), "y": np.zeros(2, int)}, {}, "the input in row 1 is not finite"),
        ({"x": np.zeros((2, 2)), "y": np.array([0, np.inf])}, {}, "the target in row 1 is not finite"),
        ({"x": np.zeros((4, 2), complex), "y": np.zeros(4, int)}, {}, "an array of complex128"),
        ({"x": np.array(["a", "b"]), "y": np.zeros(2, int)}, {}, "an array of <U1"),
        ({"a": np.zeros((4, 2)), "y": np.zeros(4, int)}, {}, r"holds a \[4, 2\], y \[4\]; expected inputs under one of"),
        ({"x": np.zeros((4, 2)), "y": np.zeros(4, int)}, {"layout": "fist"}, "data.layout='fist': must be auto, first, last"),
        ({"x": np.zeros((4, 2)), "y": np.zeros(4, int)}, {"test": 9}, "data.test=9: expected a share of the 4 samples"),
    ],
)  # fmt: skip
def test_wrong_arrays_are_told_with_the_remedy(tmp_path, content, settings, text):
    np.savez(tmp_path / "own.npz", **content)
    with pytest.raises(ValueError, match=text):
        load(tmp_path, "own.npz", **settings)


def test_no_file_is_unpickled(tmp_path):
    np.save(tmp_path / "own.npy", np.array([print, 1], dtype=object), allow_pickle=True)
    torch.save({"x": print}, tmp_path / "own.pt")
    for name in ("own.npy", "own.pt"):
        with pytest.raises(ValueError, match="damaged, or holds objects that are not arrays"):
            load(tmp_path, [name, name])


def test_missing_damaged_and_foreign_files_are_named(tmp_path):
    (tmp_path / "own.npz").write_bytes(b"no archive")
    (tmp_path / "own.mat").write_bytes(b"")
    for name, text in {
        "own.npz": "damaged",
        "own.mat": "unsupported type of file; supported are .npz, .npy",
        "gone.npz": "no such file",
    }.items():
        with pytest.raises((ValueError, FileNotFoundError), match=text):
            load(tmp_path, name)
    with pytest.raises(ValueError, match="expected one file"):
        load(tmp_path, None)
