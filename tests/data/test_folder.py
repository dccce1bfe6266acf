"""ImageNet and its small sister: files in folders of classes, decoded on the way, with the promises of every other set."""

import copy
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from snnconv.data.image_files import FolderBatches, ImageFiles, transform
from snnconv.data.splits import Splits
from snnconv.runtime import distributed
from snnconv.spiking.accuracy import accuracy

CLASSES = ["n01", "n02", "n03"]
SMALL = ("data.num_classes=3", "data.valid=6", "data.calibration=5", "data.workers=0", "data.batch_size=4",
         "data.eval_batch_size=4", "device=cpu")  # fmt: skip
TINY = (*SMALL, "data.input_shape=[3,8,8]", "data.augment.0.size=8", "data.augment.0.padding=1")


def save(path: Path, seed: int, mode: str = "RGB", size: tuple[int, int] = (8, 8), **options) -> None:
    """Smooth noise, so that a JPEG of it decodes to something of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR).convert(mode).save(path, **options)


def write_classes(folder: Path, each: int, size: tuple[int, int] = (8, 8)) -> None:
    for number, name in enumerate(CLASSES):
        for n in range(each):
            save(folder / name / f"{name}_{n}.JPEG", 100 * number + n, size=size)


@pytest.fixture
def imagenet_files(tmp_path) -> Path:
    write_classes(tmp_path / "imagenet" / "train", 8, (20, 16))
    write_classes(tmp_path / "imagenet" / "val", 3, (20, 16))
    return tmp_path / "imagenet"


@pytest.fixture
def tiny_files(tmp_path) -> Path:
    """As published: images/ below each class, and the validation images in one heap."""
    folder = tmp_path / "tiny-imagenet-200"
    for number, name in enumerate(CLASSES):
        for n in range(8):
            save(folder / "train" / name / "images" / f"{name}_{n}.JPEG", 100 * number + n)
    lines = []
    for n in range(9):
        save(folder / "val" / "images" / f"val_{n}.JPEG", 1000 + n)
        lines.append(f"val_{n}.JPEG\t{CLASSES[2 - n % 3]}\t0\t32\t44\t62\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    return folder


COMPOSED: dict[str, DictConfig] = {}  # once for all tests


@pytest.fixture
def load(compose_config, tmp_path):
    """load("tiny_imagenet", "workers=2") → the Splits of the files in the temporary folder, or the error that is told."""

    def make(name: str = "tiny_imagenet", *changes: str) -> Splits:
        if name not in COMPOSED:
            COMPOSED[name] = compose_config(f"data={name}", *(TINY if name == "tiny_imagenet" else SMALL))
        cfg = copy.deepcopy(COMPOSED[name])
        for change in (f"root='{tmp_path}'", *changes):
            key, _, value = change.partition("=")
            OmegaConf.update(cfg.data, key, yaml.safe_load(value))
        try:
            return instantiate(cfg.data)
        except InstantiationException as error:
            raise error.__cause__ from error

    return make


def images_of(batches: FolderBatches) -> torch.Tensor:
    return torch.cat([images for images, _ in batches])


def names(batches: FolderBatches) -> list[str]:
    return [Path(os.fsdecode(path)).name for path in batches.images.paths]


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0)


# the four roles


def test_roles_are_cut_from_the_training_folder(load, tiny_files):
    splits = load()
    train, valid, calibration = (set(names(part)) for part in (splits.train, splits.valid, splits.calibration))
    assert train | valid == {f"{name}_{n}.JPEG" for name in CLASSES for n in range(8)}
    assert not train & valid
    assert calibration < train
    assert (len(train), len(valid), len(calibration)) == (18, 6, 5)
    assert names(splits.test) == [f"val_{n}.JPEG" for n in range(9)]
    for part in (splits.train, splits.valid):
        assert [CLASSES[k] for k in part.labels] == [name.partition("_")[0] for name in names(part)]
    assert names(load("tiny_imagenet", "seed=5").valid) == names(splits.valid)


def test_tiny_imagenets_validation_set_may_lie_in_folders(load, tiny_files):
    published = load().test
    assert published.labels.tolist() == [2, 1, 0] * 3
    for n in range(9):
        folder = tiny_files / "val" / CLASSES[2 - n % 3] / "images"
        folder.mkdir(parents=True, exist_ok=True)
        (tiny_files / "val" / "images" / f"val_{n}.JPEG").rename(folder / f"val_{n}.JPEG")
    moved = load().test  # beside an images/ that is empty now
    expected = dict(zip(names(published), published.labels.tolist(), strict=True))
    assert dict(zip(names(moved), moved.labels.tolist(), strict=True)) == expected


def test_imagenet_is_cropped_as_it_always_is(load, imagenet_files):
    splits = load("imagenet")
    path = imagenet_files / "val" / "n02" / "n02_1.JPEG"
    picture = Image.open(path).resize((320, 256), Image.Resampling.BILINEAR)  # the shorter side
    pixels = np.asarray(picture.crop((48, 16, 272, 240)), dtype=np.float32) / 255
    expected = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    images, labels = list(splits.test)[1]
    torch.testing.assert_close(images[0], torch.from_numpy(expected).float().movedim(-1, 0), rtol=0, atol=1e-5)
    assert labels.tolist() == [1, 1, 2, 2]
    steps = [type(step) for step in splits.train.images.transform.transforms]
    assert steps == [v2.RandomResizedCrop, v2.RandomHorizontalFlip, v2.ColorJitter, v2.PILToTensor]
    for part in (splits.valid, splits.calibration, splits.test):
        assert [type(step) for step in part.images.transform.transforms] == [v2.Resize, v2.CenterCrop, v2.PILToTensor]


def test_the_root_may_be_the_folder_itself(load, imagenet_files):
    assert load("imagenet", f"root='{imagenet_files}'").test.count == 9


# batches


@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("Training", "Validation"), ("train", "valid")])
def test_the_subfolders_may_have_any_usual_name(load, imagenet_files, train, test):
    """An own folder of images, in the place of ImageNet."""
    expected = next(iter(load("imagenet").test))[0]
    (imagenet_files / "train").rename(imagenet_files / train)
    (imagenet_files / "val").rename(imagenet_files / test)
    assert torch.equal(next(iter(load("imagenet").test))[0], expected)


def test_the_same_seed_and_epoch_give_the_same_batches_whoever_decodes(load, tiny_files):
    def epochs(*overrides):
        train = load("tiny_imagenet", *overrides).train
        for epoch in (0, 1, 0):
            train.set_epoch(epoch)
            yield images_of(train)

    state = torch.get_rng_state()
    first, second, again = epochs()
    same(torch.get_rng_state(), state)
    same(first, again)
    assert not torch.equal(first, second)
    assert not torch.equal(first, next(epochs("seed=1")))
    resumed = load("tiny_imagenet", "workers=2").train  # another process, after the first epoch
    resumed.set_epoch(1)
    same(images_of(resumed), second)
    same(torch.get_rng_state(), state)


def test_each_image_is_drawn_on_its_own_and_anew_in_each_epoch(tmp_path):
    save(tmp_path / "a.JPEG", 0)
    files = ImageFiles([str(tmp_path / "a.JPEG")] * 20, (3, 8, 8), [v2.RandomCrop(8, padding=2)])  # 25 shifts
    batches = FolderBatches(files, torch.arange(20), 10, [0.0] * 3, [1.0] * 3, shuffle=True)

    def by_image(epoch: int) -> list[list]:
        batches.set_epoch(epoch)
        images, labels = (torch.cat(column) for column in zip(*batches, strict=True))
        return images[labels.argsort()].tolist()

    first, second = by_image(0), by_image(1)
    assert sum(first.index(image) == n for n, image in enumerate(first)) > 8  # different ones
    assert sum(a != b for a, b in zip(first, second, strict=True)) > 12


def test_only_training_is_augmented(load, tiny_files):
    splits = load()
    assert not torch.equal(images_of(splits.train), images_of(load("tiny_imagenet", "augment=[]").train))
    for part in (splits.valid, splits.calibration, splits.test):
        same(images_of(part), images_of(plainly(part)))


def plainly(batches: FolderBatches) -> FolderBatches:
    """The same files in their order, as they are."""
    paths = [os.fsdecode(path) for path in batches.images.paths]
    files = ImageFiles(paths, batches.images.shape, [])
    copy = FolderBatches(files, batches.labels, 100, [0.0] * 3, [1.0] * 3)
    copy.scale, copy.offset = batches.scale, batches.offset
    return copy


def test_a_shuffled_pass_has_full_batches_and_an_ordered_one_every_image(load, tiny_files):
    splits = load()
    assert [len(labels) for _, labels in splits.train] == [4] * 4 == [4] * len(splits.train)
    assert [len(labels) for _, labels in splits.test] == [4, 4, 1]
    assert torch.cat([labels for _, labels in splits.test]).tolist() == splits.test.labels.tolist()
    assert (splits.train.count, len(splits.test), splits.test.device) == (18, 3, torch.device("cpu"))


def test_two_processes_share_without_gap_or_overlap(load, tiny_files, monkeypatch):
    splits = load("tiny_imagenet", "augment=[]")
    alone = [image.tolist() for image in images_of(splits.test)]
    every = [image.tolist() for image in images_of(plainly(splits.train))]
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    shares, trained = [], []
    for rank in range(2):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shares += [image.tolist() for image in images_of(splits.test)]
        trained.append([image.tolist() for image in images_of(splits.train)])
    assert sorted(shares) == sorted(alone)
    assert [len(share) for share in trained] == [8, 8]
    found = [every.index(image) for image in trained[0] + trained[1]]
    assert len(set(found)) == 16


def test_an_image_is_drawn_the_same_in_any_number_of_processes(load, tiny_files, monkeypatch):
    train = load("tiny_imagenet", "batch_size=9").train
    whole = [image.tolist() for image in images_of(train)]
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        parts += [image.tolist() for image in images_of(train)]
    assert sorted(parts) == sorted(whole)


def test_a_network_is_evaluated_on_it(load, tiny_files):
    class Knows(nn.Module):
        """Right about every image whose class is 2."""

        def forward(self, images):
            return torch.eye(3)[torch.full((len(images),), 2)]

    assert accuracy(Knows(), load("tiny_imagenet", "workers=1").test) == 3 / 9


@pytest.mark.parametrize(
    ("mode", "ending"),
    [("L", "JPEG"), ("CMYK", "JPEG"), ("RGBA", "png"), ("P", "png"), ("1", "png"), ("LA", "png")],
)
def test_every_image_becomes_rgb(tmp_path, mode, ending):
    save(tmp_path / f"a.{ending}", 0, mode)
    image = ImageFiles([str(tmp_path / f"a.{ending}")], (3, 8, 8), [])[[0], (0,)]
    with Image.open(tmp_path / f"a.{ending}") as picture:
        assert picture.mode == mode
        assert np.array_equal(image[0].movedim(0, -1), np.asarray(picture.convert("RGB")))


# mistakes

DAMAGE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-200]),
    "empty": lambda path: path.write_bytes(b""),
    "no image": lambda path: path.write_text("<html>404</html>"),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_image_is_named(load, tiny_files, damage):
    path = tiny_files / "val" / "images" / "val_5.JPEG"
    test = load().test
    damage(path)
    with pytest.raises(
        OSError, match=rf"^{path}: damaged, or not an image \(.*\); replace it with the original, or remove it$"
    ):
        list(test)


def test_a_worker_names_it_as_well_in_one_line(load, tiny_files):
    path = tiny_files / "val" / "images" / "val_5.JPEG"
    path.write_bytes(b"rubbish")
    with pytest.raises(OSError, match=rf"^{path}: damaged.*remove it$"):
        list(load("tiny_imagenet", "workers=1").test)


@pytest.mark.parametrize(
    ("name", "lacks", "words"),
    [
        ("imagenet", "imagenet", "torchvision cannot download ImageNet: get ILSVRC2012_img_train.tar"),
        ("tiny_imagenet", "tiny-imagenet-200", "torchvision cannot download Tiny-ImageNet: get tiny-imagenet-200.zip"),
    ],
)
def test_a_missing_set_says_what_to_put_where(load, tmp_path, name, lacks, words):
    with pytest.raises(FileNotFoundError, match=f"{lacks}: no such folder.*{words}.* there.*data.root") as error:
        load(name)
    assert str(tmp_path / lacks) in str(error.value)


def remove(path: Path) -> None:
    for child in path.iterdir() if path.is_dir() else ():
        remove(child)
    path.rmdir() if path.is_dir() else path.unlink()


def flatten(folder: Path) -> None:
    """The layout of the archive of ImageNet's validation images."""
    for path in list(folder.rglob("*.JPEG")):
        path.rename(folder / path.name)
    for path in folder.iterdir():
        if path.is_dir():
            path.rmdir()


MISTAKES = {
    "no val": (
        lambda root: remove(root / "val"),
        "no folder of test images; expected val, valid, .*it holds: train; .*ILSVRC2012_devkit_t12",
    ),
    "val without classes": (lambda root: flatten(root / "val"), "val: no such folder, or it has no subfolders"),
    "val without images": (lambda root: [remove(p) for p in root.glob("val/*/*")], "val: no images"),
    "a class too few": (
        lambda root: remove(root / "train" / "n02"),
        "train: has images of 2 classes, but data.num_classes=3",
    ),
    "an empty class": (lambda root: [remove(p) for p in root.glob("train/n02/*")], "train: has images of 2 classes"),
    "a class too many": (lambda root: save(root / "train" / "n04" / "a.JPEG", 0), "images of 4 classes"),
    "other classes": (
        lambda root: (root / "val" / "n02").rename(root / "val" / "dog"),
        r"val: its classes differ from those of .*train: missing n02; additional dog",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), MISTAKES.values(), ids=MISTAKES)
def test_folders_that_are_not_what_was_announced_are_told(load, imagenet_files, spoil, message):
    spoil(imagenet_files)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load("imagenet")


ANNOTATIONS = {
    "gone": (lambda path: path.unlink(), r"val_annotations\.txt: no such file.*unpack it there"),
    "damaged": (lambda path: path.write_text("val_0.JPEG n01\n"), r"val_annotations\.txt: line 1 is damaged"),
    "of another set": (lambda path: path.write_text("val_99.JPEG\tn01\t0\n"), r"images: lacks val_99\.JPEG"),
    "empty": (lambda path: path.write_text(""), r"val_annotations\.txt: empty"),
}


@pytest.mark.parametrize(("spoil", "message"), ANNOTATIONS.values(), ids=ANNOTATIONS)
def test_annotations_that_do_not_fit_are_told(load, tiny_files, spoil, message):
    spoil(tiny_files / "val" / "val_annotations.txt")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("valid=24", "hold out 24 validation"),
        ("workers=-1", "data.workers=-1"),
        ("prefetch=0", "data.prefetch=0"),
        ("augment.0.name=Crop", "name=Crop: no transform of torchvision"),
        ("augment.0.name=functional", "name=functional: no transform"),
    ],
)
def test_wrong_settings_are_told(load, tiny_files, override, message):
    with pytest.raises(ValueError, match=message):
        load("tiny_imagenet", override)


def test_images_of_another_size_are_told(load, tiny_files):
    splits = load("tiny_imagenet", "input_shape=[3,9,9]")
    with pytest.raises(
        ValueError, match=r"val_0\.JPEG: has shape \[3, 8, 8\] after the transforms, data.input_shape is \[3, 9, 9\]"
    ):
        list(splits.test)


def test_any_transform_of_torchvision_can_be_named():
    assert isinstance(transform("RandAugment", magnitude=5), v2.RandAugment)
