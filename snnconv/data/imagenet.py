"""ImageNet and Tiny-ImageNet: a folder of images for each class, decoded by worker processes."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from snnconv.data.class_folders import Files, by_class, some
from snnconv.data.image_files import FolderBatches, ImageFiles, Steps
from snnconv.data.splits import Splits, hold_out

PARTS = {
    "train": ("train", "training"),
    "test": ("val", "valid", "validation", "test", "testing"),
}  # usual names of subfolders

IMAGENET = (
    "torchvision cannot download ImageNet: get ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and "
    "ILSVRC2012_devkit_t12.tar.gz from image-net.org (it asks for an account), put them there and unpack "
    "them with torchvision.datasets.ImageNet(folder, 'train') and (folder, 'val'): train/ and val/ then hold a folder of "
    "images for each class; or set data.root or SNNCONV_DATA to the folder that holds them"
)
TINY_IMAGENET = (
    "torchvision cannot download Tiny-ImageNet: get tiny-imagenet-200.zip (Stanford, CS231n) and unpack it there: train/ then "
    "holds a folder for each class, val/ holds images/ and val_annotations.txt (or a folder for each class); "
    "or set data.root or SNNCONV_DATA to the folder that holds them"
)


def imagenet(root: str, **options: Any) -> Splits:
    """ImageNet (ILSVRC 2012): 1,281,167 training images of 1,000 classes; `test` is the published validation set of 50,000.

    Found in `root`/imagenet or in `root` itself.
    """
    folder = _located(root, "imagenet", IMAGENET)
    train, test = (by_class(_part(folder, role, IMAGENET), IMAGENET) for role in PARTS)
    return cut_files(folder, train, test, **options)


def tiny_imagenet(root: str, **options: Any) -> Splits:
    """Tiny-ImageNet: 100,000 training images of 64×64, 200 classes; `test` is the published validation set of 10,000.

    Found in `root`/tiny-imagenet-200 or in `root` itself.
    """
    folder = _located(root, "tiny-imagenet-200", TINY_IMAGENET)
    val = _part(folder, "test", TINY_IMAGENET)
    # some users move them into folders of classes
    published = (val / "images").is_dir() and any((val / "images").iterdir())
    test = _annotated(val) if published else by_class(val, TINY_IMAGENET)
    return cut_files(folder, by_class(_part(folder, "train", TINY_IMAGENET), TINY_IMAGENET), test, **options)


def cut_files(
    folder: Path,
    train: Files,
    test: Files,
    *,
    num_classes: int,
    input_shape: Sequence[int],
    batch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    valid: int,
    calibration: int,
    seed: int,
    device: torch.device | str,
    augment: Steps = (),
    prepare: Steps = (),
    workers: int = 0,
    prefetch: int = 2,
    eval_batch_size: int = 100,
) -> Splits:
    """`Splits` of image files: `augment` are the transforms of a PIL image in training, `prepare` those in evaluation.

    Classes are numbered in the order of their names.  `valid` and `calibration` are cut from `train` as in `splits.cut`.
    ValueError if the classes of the files do not fit `num_classes`, or differ between training and test.
    """
    classes, tested = ({name for _, name in part} for part in (train, test))
    if len(classes) != num_classes:
        raise ValueError(f"{folder / 'train'}: has images of {len(classes)} classes, but data.num_classes={num_classes}; "
                         "is the archive unpacked completely?")  # fmt: skip
    if classes != tested:
        raise ValueError(f"{folder / 'val'}: its classes differ from those of {folder / 'train'}: "
                         f"missing {some(classes - tested)}; additional {some(tested - classes)}")  # fmt: skip
    numbers = {name: number for number, name in enumerate(sorted(classes))}

    def batches(files: Files, size: int, steps: Steps, **options: Any) -> FolderBatches:
        images = ImageFiles([path for path, _ in files], input_shape, steps)
        labels = torch.tensor([numbers[name] for _, name in files], dtype=torch.int64, device=device)
        return FolderBatches(images, labels, size, mean, std, workers=workers, prefetch=prefetch, **options)

    training, validation = (
        [train[i] for i in part.tolist()] for part in hold_out(str(folder), len(train), valid, calibration)
    )
    return Splits(
        train=batches(training, batch_size, augment, shuffle=True, seed=seed),
        valid=batches(validation, eval_batch_size, prepare),
        calibration=batches(training[:calibration], eval_batch_size, prepare, everywhere=True),
        test=batches(test, eval_batch_size, prepare),
    )


def _part(folder: Path, role: str, remedy: str) -> Path:
    """Subfolder of the training or test images, by one of its usual names; FileNotFoundError listing these names."""
    folders = {path.name.lower(): path for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else {}
    for name in PARTS[role]:
        if name in folders:
            return folders[name]
    present = ", ".join(sorted(path.name for path in folders.values())[:8]) or "none"
    raise FileNotFoundError(f"{folder}: no folder of {role} images; expected {', '.join(PARTS[role])}; it holds: {present}; "
                            f"{remedy}")  # fmt: skip


def _located(root: str, name: str, remedy: str) -> Path:
    """The folder that holds the training images: `root`/`name`, or `root` itself."""
    for folder in (Path(root) / name, Path(root)):
        if folder.is_dir() and {path.name.lower() for path in folder.iterdir() if path.is_dir()} & {*PARTS["train"]}:
            return folder
    tried = " or ".join(f"{name}/" for name in PARTS["train"])
    raise FileNotFoundError(f"{Path(root) / name}: no such folder, or no {tried} in it or in {root}; {remedy}")


def _annotated(folder: Path) -> Files:
    """The images of Tiny-ImageNet's validation set as published: images/, and their classes in val_annotations.txt."""
    table = folder / "val_annotations.txt"
    if not table.is_file():
        raise FileNotFoundError(
            f"{table}: no such file, so the classes of {folder / 'images'} are unknown; {TINY_IMAGENET}"
        )
    rows = [line.split("\t") for line in table.read_text(errors="replace").splitlines()]
    if not rows:
        raise ValueError(f"{table}: empty file; unpack the archive again")
    for number, row in enumerate(rows, 1):
        if len(row) < 2:
            raise ValueError(
                f"{table}: line {number} is damaged; expected an image, a tab, its class; unpack the archive again"
            )
    missing = {row[0] for row in rows} - set(os.listdir(folder / "images"))
    if missing:
        raise ValueError(f"{folder / 'images'}: lacks {some(missing)} of {table.name}; unpack the archive again")
    return [(str(folder / "images" / row[0]), row[1]) for row in rows]
