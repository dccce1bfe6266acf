"""Data: four roles that never meet, batches that can be had again, and files that are read but never run."""

import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from torchvision import datasets

from snnconv.data.augment import Cutout, RandomCrop, RandomFlip
from snnconv.data.batches import Batches
from snnconv.data.splits import cut
from snnconv.data.synthetic import synthetic
from snnconv.runtime import distributed

COMMON = {"mean": [0.5], "std": [0.25], "seed": 0, "device": "cpu"}


def numbered(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images that carry their own number: 258 is [1, 2]."""
    index = torch.arange(count)
    images = torch.stack([index // 256, index % 256], -1).to(torch.uint8).view(count, 1, 1, 2)
    return images, index % 10


def numbers(batches: Batches) -> list[int]:
    return (batches.images[:, 0, 0, 0].int() * 256 + batches.images[:, 0, 0, 1]).tolist()


def seen(batches: Batches) -> list[int]:
    """The numbers of the images that one pass brings, undoing the normalization."""
    found = []
    for images, labels in batches:
        pixels = ((images * 0.25 + 0.5) * 255).round().int()
        found += (pixels[:, 0, 0, 0] * 256 + pixels[:, 0, 0, 1]).tolist()
        assert [number % 10 for number in found[-len(labels) :]] == labels.tolist()
    return found


# the four roles


def make_cut(**changes):
    options = dict(num_classes=10, input_shape=[1, 1, 2], batch_size=32, valid=100, calibration=50, **COMMON)
    return cut("toy", numbered(400), numbered(90), **{**options, **changes})


def test_roles_are_cut_properly():
    splits = make_cut()
    train, valid, calibration = (set(numbers(part)) for part in (splits.train, splits.valid, splits.calibration))
    assert train | valid == set(range(400))
    assert not train & valid
    assert calibration < train
    assert (len(train), len(valid), len(calibration)) == (300, 100, 50)
    assert numbers(splits.test) == list(range(90))


def test_roles_do_not_depend_on_the_seed():
    one, other = make_cut(seed=1), make_cut(seed=2)
    assert numbers(one.valid) == numbers(other.valid)
    assert numbers(one.calibration) == numbers(other.calibration)
    assert seen(one.train) != seen(other.train)


def test_only_training_is_shuffled_and_augmented():
    splits = make_cut(augment=[RandomFlip()])
    assert splits.train.shuffle
    assert splits.train.augment
    for part in (splits.valid, splits.calibration, splits.test):
        assert not part.shuffle
        assert not part.augment
        assert seen(part) == numbers(part)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"valid": 400}, "hold out 400 validation"),
        ({"valid": -1}, "hold out -1 validation"),
        ({"calibration": 301}, "301 calibration"),
        ({"calibration": 0}, "0 calibration"),
        ({"input_shape": [3, 1, 2]}, r"images are \[1, 1, 2\], but data.input_shape is \[3, 1, 2\]"),
        ({"num_classes": 9}, r"training label 9 \(40 such labels\), expected 0…8"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_wrong_cuts_are_told(changes, message):
    with pytest.raises(ValueError, match=message):
        make_cut(**changes)


# batches


def make_batches(count: int = 70, batch_size: int = 16, **options) -> Batches:
    return Batches(*numbered(count), batch_size, [0.5], [0.25], **options)


def test_pixels_are_normalized():
    batch = Batches(
        torch.tensor([[[[0, 51]], [[102, 255]]]], dtype=torch.uint8), torch.tensor([3]), 1, [0.0, 0.2], [1.0, 0.5]
    )
    ((images, labels),) = batch
    torch.testing.assert_close(images, torch.tensor([[[[0.0, 0.2]], [[0.4, 1.6]]]]))
    assert labels.tolist() == [3]


def test_the_same_seed_and_epoch_give_the_same_batches():
    def epochs(seed):
        batches = make_batches(shuffle=True, seed=seed, augment=[RandomFlip()])
        for epoch in (0, 1, 0):
            batches.set_epoch(epoch)
            yield torch.cat([images for images, _ in batches])

    first, second, again = epochs(0)
    assert torch.equal(first, again)
    assert torch.equal(first, next(epochs(0)))
    assert not torch.equal(first, second)
    assert not torch.equal(first, next(epochs(1)))


def test_a_shuffled_pass_has_full_batches_and_no_image_twice():
    batches = make_batches(70, 16, shuffle=True)
    assert [len(labels) for _, labels in batches] == [16] * 4 == [16] * len(batches)
    assert len(set(seen(batches))) == 64


def test_several_batches_can_be_augmented_at_once(monkeypatch):
    """As on CUDA: the same batches, in fewer calls."""
    calls = []
    batches = make_batches(
        120, 16, shuffle=True, augment=[lambda images, generator: (calls.append(len(images)), images)[1]]
    )
    expected = seen(batches)
    assert calls == [16] * 7
    calls.clear()
    monkeypatch.setattr(Batches, "_together", lambda self: 3)
    assert seen(batches) == expected
    assert calls == [48, 48, 16]
    assert [len(labels) for _, labels in batches] == [16] * 7


def test_a_set_smaller_than_a_batch_is_one_batch():
    batches = make_batches(10, 16, shuffle=True)
    assert sorted(seen(batches)) == list(range(10))
    assert len(batches) == 1


@given(count=st.integers(4, 60), batch_size=st.integers(1, 20), world=st.integers(1, 4))
def test_processes_share_an_evaluation_without_gap_or_overlap(count, batch_size, world):
    batches, shares = make_batches(count, batch_size), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "world_size", lambda: world)
        for rank in range(world):
            patch.setattr(distributed, "rank", lambda rank=rank: rank)
            shares += seen(batches)
            assert len(list(batches)) == len(batches)
    assert sorted(shares) == list(range(count))


@given(count=st.integers(8, 80), batch_size=st.integers(1, 20), world=st.integers(1, 4))
def test_processes_train_on_different_images_in_step(count, batch_size, world):
    batches, shares, lengths = make_batches(count, batch_size, shuffle=True, seed=3), [], set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "world_size", lambda: world)
        for rank in range(world):
            patch.setattr(distributed, "rank", lambda rank=rank: rank)
            shares += seen(batches)
            lengths.add(len(list(batches)))
    assert len(shares) == len(set(shares))
    assert len(lengths) == 1  # a process with one batch less would leave the others waiting
    assert len(shares) > count - batch_size * world


# augmentation, of each image on its own


@pytest.fixture
def noise() -> torch.Tensor:
    return torch.randint(1, 256, (64, 2, 6, 6), dtype=torch.uint8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_random_crop_shifts_each_image_by_itself(noise):
    cropped = RandomCrop(padding=2)(noise, generator())
    padded = torch.nn.functional.pad(noise, [2] * 4)
    windows = {(y, x): padded[:, :, y : y + 6, x : x + 6] for y in range(5) for x in range(5)}
    shifts = [[at for at, window in windows.items() if torch.equal(window[n], cropped[n])] for n in range(64)]
    assert all(len(found) == 1 for found in shifts)
    assert len({found[0] for found in shifts}) > 15  # of 25


def test_random_flip_mirrors_about_half(noise):
    flipped = RandomFlip()(noise, generator())
    mirrored = [torch.equal(after, before.flip(-1)) for after, before in zip(flipped, noise, strict=True)]
    kept = [torch.equal(after, before) for after, before in zip(flipped, noise, strict=True)]
    assert [a or b for a, b in zip(mirrored, kept, strict=True)] == [True] * 64
    assert 16 < sum(mirrored) < 48


def test_cutout_blanks_one_square_of_each_image(noise):
    out = Cutout(size=3, fill=[0.0, 0.2])(noise, generator())
    changed = (out != noise).any(1)
    for image, hole in zip(out, changed, strict=True):
        rows, columns = hole.any(1).nonzero().flatten(), hole.any(0).nonzero().flatten()
        assert len(rows) <= 3
        assert len(columns) <= 3
        inside = image[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert inside[0].eq(0).all()
        assert inside[1].eq(51).all()
    assert changed.sum((1, 2)).max() == 9
    assert len({tuple(hole.flatten().tolist()) for hole in changed}) > 20


@pytest.mark.parametrize("augment", [RandomCrop(1), RandomFlip(), Cutout(2, [0.0, 0.0])])
def test_augmentation_depends_on_its_generator_alone(noise, augment):
    before = noise.clone()
    assert torch.equal(augment(noise, generator(1)), augment(noise, generator(1)))
    assert not torch.equal(augment(noise, generator(1)), augment(noise, generator(2)))
    assert torch.equal(noise, before)


@pytest.mark.parametrize("make", [lambda: RandomCrop(0), lambda: Cutout(0, [0.0])])
def test_an_augmentation_does_something(make):
    with pytest.raises(ValueError, match="at least one pixel"):
        make()


# sets without files


def test_digits(compose_config):
    splits = instantiate(compose_config("data=digits", "device=cpu").data)
    counts = [part.count for part in (splits.train, splits.valid, splits.calibration, splits.test)]
    assert counts == [1293, 144, 500, 360]
    assert splits.train.images.shape[1:] == (1, 8, 8)
    assert splits.train.images.max() == 240  # 16 · 15
    assert splits.test.labels.bincount().min() >= 34  # class-balanced
    pixels = torch.cat([images for images, _ in splits.valid])
    assert pixels.mean().abs() < 0.05
    assert (pixels.std() - 1).abs() < 0.05


def test_synthetic_classes_can_be_told_apart():
    splits = synthetic(num_classes=3, input_shape=[1, 4, 4], train=90, test=30, noise=0.2, valid=20, calibration=20,
                       batch_size=8, **COMMON)  # fmt: skip
    images, labels = splits.train.images.float(), splits.train.labels
    centres = torch.stack([images[labels == k].mean(0) for k in range(3)])
    nearest = (splits.test.images.float()[:, None] - centres).flatten(2).norm(dim=2).argmin(1)
    assert torch.equal(nearest, splits.test.labels)


# sets from files: the test writes small ones of the real layout


def cifar_part(count: int, key: str = "labels", **changes) -> dict:
    data = np.random.default_rng(count).integers(0, 256, (count, 3072), dtype=np.uint8)
    return {"data": data, key: [n % 10 for n in range(count)], **changes}


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))


@pytest.fixture
def load(compose_config, tmp_path):
    """load("cifar10") → the Splits of the files in the temporary folder, or the error that is told."""
    small = ("data.valid=10", "data.calibration=10", "device=cpu", f"data.root='{tmp_path}'")

    def make(name: str, *overrides: str):
        try:
            return instantiate(compose_config(f"data={name}", *small, *overrides).data)
        except InstantiationException as error:
            raise error.__cause__ from error

    return make


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    """No test fetches anything."""

    def refuse(*arguments, **options):
        raise OSError("no network here")

    for kind in (datasets.CIFAR10, datasets.CIFAR100, datasets.MNIST):
        monkeypatch.setattr(kind, "download", refuse)


@pytest.fixture
def cifar10_files(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    for n in range(1, 6):
        write(folder / f"data_batch_{n}", cifar_part(10 + n))
    write(folder / "test_batch", cifar_part(20))
    return folder


@pytest.fixture
def cifar100_files(tmp_path):
    folder = tmp_path / "cifar-100-python"
    for name, count in (("train", 60), ("test", 20)):
        write(folder / name, cifar_part(count, "fine_labels", coarse_labels=[0] * count))
    return folder


def write_idx(path: Path, values: np.ndarray) -> None:
    magic = 2048 + values.ndim
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f">I{values.ndim}I", magic, *values.shape) + values.tobytes())


@pytest.fixture
def fashion_files(tmp_path):
    folder = tmp_path / "FashionMNIST" / "raw"
    for part, count in (("train", 40), ("t10k", 12)):
        images = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        write_idx(folder / f"{part}-images-idx3-ubyte", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8))
    return folder


def test_cifar10_is_read_as_it_is(load, cifar10_files):
    splits = load("cifar10")
    assert (splits.train.count, splits.valid.count, splits.test.count) == (11 + 12 + 13 + 14 + 15 - 10, 10, 20)
    content = cifar_part(20)
    assert splits.test.labels.tolist() == content["labels"]
    assert np.array_equal(splits.test.images.numpy(), content["data"].reshape(-1, 3, 32, 32))
    assert splits.test.images.dtype == torch.uint8


def test_cifar_files_written_by_python_2_are_read(load, cifar10_files):
    path = cifar10_files / "test_batch"
    path.write_bytes(path.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert b"numpy.core" in path.read_bytes()
    assert load("cifar10").test.count == 20


def test_cifar100_has_fine_labels(load, cifar100_files):
    assert load("cifar100").test.labels.tolist() == [n % 10 for n in range(20)]


def test_fashion_mnist_is_read_as_it_is(load, fashion_files):
    splits = load("fashion_mnist")
    expected = np.random.default_rng(12).integers(0, 256, (12, 1, 28, 28), dtype=np.uint8)
    assert np.array_equal(splits.test.images.numpy(), expected)
    assert splits.train.count == 30


class Intruder:
    """Unpickled carelessly, it leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch '{self.mark}'",)


def test_a_malicious_pickle_is_not_run(load, cifar10_files, tmp_path):
    mark = tmp_path / "intruded"
    write(cifar10_files / "test_batch", {**cifar_part(20), "extra": Intruder(mark)})
    pickle.loads((cifar10_files / "test_batch").read_bytes())  # it works …
    assert mark.exists()
    mark.unlink()
    with pytest.raises(ValueError, match=r"test_batch: damaged.*it contains posix.system"):
        load("cifar10")
    assert not mark.exists()  # … but not here


DAMAGE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "empty": lambda path: path.write_bytes(b""),
    "no pickle": lambda path: path.write_text("<html>404</html>"),
    "another label key": lambda path: write(path, cifar_part(20, "fine_labels")),
    "fewer labels": lambda path: write(path, {**cifar_part(20), "labels": [0] * 19}),
    "float images": lambda path: write(path, {**cifar_part(20), "data": np.zeros((20, 3072))}),
    "other images": lambda path: write(path, {**cifar_part(20), "data": np.zeros((20, 3000), np.uint8)}),
    "a list": lambda path: write(path, [1, 2]),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_cifar_file_is_named(load, cifar10_files, damage):
    damage(cifar10_files / "test_batch")
    with pytest.raises(
        ValueError, match=r"test_batch: damaged, or not of the python version of CIFAR .* expected 'data' and 'labels'"
    ):
        load("cifar10")


def test_labels_that_are_no_class_are_told(load, cifar10_files):
    write(cifar10_files / "test_batch", {**cifar_part(20), "labels": [10] * 20})
    with pytest.raises(ValueError, match=r"CIFAR10: test label 10 \(20 such labels\), expected 0…9"):
        load("cifar10")


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize("keep", [0, 6, 15, -1])
def test_a_truncated_idx_file_is_named(load, fashion_files, name, keep):
    path = fashion_files / name
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=f"{name}.*damaged"):
        load("fashion_mnist")


@pytest.mark.parametrize(
    ("name", "lacks"),
    [("cifar10", "data_batch_1"), ("cifar100", "train"), ("fashion_mnist", "train-images-idx3-ubyte")],
)
def test_a_missing_set_says_what_to_put_where(load, tmp_path, name, lacks):
    with pytest.raises(FileNotFoundError, match=f"lacks .*{lacks}.*put the files there, or set data.root") as error:
        load(name)
    assert str(tmp_path) in str(error.value)


def test_one_missing_file_is_named(load, cifar10_files):
    (cifar10_files / "data_batch_4").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks data_batch_4, and the download failed \(no network here\)"):
        load("cifar10")


def test_a_failed_download_leaves_nothing_behind(load, tmp_path):
    root = tmp_path / "new" / "data"
    root.parent.mkdir()
    with pytest.raises(FileNotFoundError, match="lacks"):
        load("fashion_mnist", f"data.root='{root}'")
    assert not root.exists()


# the real files, where SNNCONV_DATA says they are

REAL = {
    "cifar10": ("cifar-10-batches-py", (3, 32, 32), 5000, 1000),
    "cifar100": ("cifar-100-python", (3, 32, 32), 500, 100),
    "fashion_mnist": ("FashionMNIST", (1, 28, 28), 6000, 1000),
}


@pytest.mark.data
@pytest.mark.parametrize("name", REAL)
def test_real_data(compose_config, name):
    folder, shape, train, test = REAL[name]
    if not (Path(os.environ.get("SNNCONV_DATA", "")) / folder).is_dir() or "SNNCONV_DATA" not in os.environ:
        pytest.skip(f"no {folder} under SNNCONV_DATA")
    cfg = compose_config(f"data={name}", "device=cpu")
    splits, classes = instantiate(cfg.data), cfg.data.num_classes
    assert splits.train.images.shape[1:] == shape
    assert (splits.valid.count, splits.calibration.count) == (5000, 1000)
    assert torch.cat([splits.train.labels, splits.valid.labels]).bincount().tolist() == [train] * classes
    assert splits.test.labels.bincount().tolist() == [test] * classes
    mean = splits.train.images.float().mean((0, 2, 3)) / 255
    torch.testing.assert_close(mean, torch.tensor(list(cfg.data.mean)), rtol=0, atol=2e-3)


def test_what_calibrates_is_the_same_for_every_process(compose_config, monkeypatch):
    data = instantiate(compose_config("data=synthetic", "device=cpu").data)
    alone = torch.cat([labels for _, labels in data.calibration])
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert torch.equal(torch.cat([labels for _, labels in data.calibration]), alone)
        assert sum(len(labels) for _, labels in data.test) < data.test.count
