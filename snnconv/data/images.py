"""Your own images: one folder of files per class, with separate training and test folders or without."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snnconv.data.batches import Augmentation, Batches
from snnconv.data.class_folders import Files, by_class, some
from snnconv.data.facts import finds, moments
from snnconv.data.image_files import FolderBatches, ImageFiles, Steps, transform
from snnconv.data.splits import Splits, counted, division, hold_out

log = logging.getLogger(__name__)
PARTS = {"train": ("train", "training"), "valid": ("val", "valid", "validation"), "test": ("test", "testing")}
LARGEST = 224  # largest side of images if data.image_size is null
MEASURED = 256  # images from which size, mean and deviation are computed
REMEDY = "data.root holds a folder of images for each class, or train/ and test/ (or val/) that hold such folders"
Size = int | Sequence[int] | None


def find(**settings: Any) -> dict[str, Any]:
    """Classes, channels, size, mean and deviation, from training images."""
    _require_size(settings["image_size"])
    files = parts(Path(settings["root"]), settings["test"], warn=True)["train"]
    names = sorted({name for _, name in files})
    paths = [path for path, _ in files][:: -(-len(files) // MEASURED)]
    sizes, grey = zip(*map(_measured, paths), strict=True)
    size = settings["image_size"] or _size(sizes)
    channels = settings["channels"] or (1 if all(grey) else 3)
    shape = settings["input_shape"] or [channels, *(size if isinstance(size, Sequence) else [size, size])]
    images = ImageFiles(paths, shape, _steps(size, channels, shape))
    mean, std = moments(_decoded(images, settings["workers"]))
    return {"num_classes": len(names), "class_names": names, "image_size": size, "channels": channels,
            "input_shape": shape, "mean": mean, "std": std}  # fmt: skip


@finds(find)
def folder(
    root: str,
    *,
    num_classes: int,
    class_names: Sequence[str],
    input_shape: Sequence[int],
    image_size: Size,
    channels: int,
    mean: Sequence[float],
    std: Sequence[float],
    test: float,
    valid: float,
    calibration: int,
    batch_size: int,
    seed: int,
    device: torch.device | str,
    augment: Sequence[Augmentation] = (),
    eval_batch_size: int = 100,
    workers: int = 0,
    prefetch: int = 2,
    memory: float = 2.0,
) -> Splits:
    """Image files as `Splits`: training, validation and test folders with usual names, or only one folder per class.

    Without a test folder the validation folder is the test set; without both, `test` (a share or a number) of the images is.
    Without a validation folder, `valid` of the training images is the validation set.  Images are resized to `image_size`: an
    integer for a square cut from the centre, or [height, width].  They are held in memory if all together take less than
    `memory` GiB; otherwise `workers` processes decode them in every epoch.
    """
    _require_size(image_size)
    files_of = parts(Path(root), test)
    numbers = {name: number for number, name in enumerate(class_names)}
    for part, files in files_of.items():
        if unknown := {name for _, name in files} - {*numbers}:
            raise ValueError(f"{root}: the {part} images have classes that the training set lacks: {some(unknown)}")
    if len(numbers) != num_classes:
        raise ValueError(f"{root}: has {len(numbers)} classes, but data.num_classes={num_classes}")
    steps, in_memory = _steps(image_size, channels, input_shape), _fits(files_of, input_shape, memory)
    sources: dict[str, Any] = {}

    def batches(part: str, size: int, chosen: Tensor | None = None, **options: Any) -> Batches:
        files = files_of.get(part, [])
        indices = torch.arange(len(files)) if chosen is None else chosen
        labels = torch.tensor([numbers[files[i][1]] for i in indices.tolist()], dtype=torch.int64, device=device)
        if in_memory:
            if part not in sources:
                sources[part] = _decoded(ImageFiles([path for path, _ in files], input_shape, steps), workers)
            return Batches(sources[part][indices].to(device), labels, size, mean, std, **options)
        images = ImageFiles([files[i][0] for i in indices.tolist()], input_shape, steps)
        return FolderBatches(images, labels, size, mean, std, workers=workers, prefetch=prefetch, **options)

    count = len(files_of["train"])
    number = 0 if "valid" in files_of else counted("data.valid", valid, count)
    training, held = hold_out(root, count, number, min(calibration, count - number))
    return Splits(
        train=batches("train", batch_size, training, shuffle=True, augment=augment, seed=seed),
        valid=batches("valid", eval_batch_size) if "valid" in files_of else batches("train", eval_batch_size, held),
        calibration=batches("train", eval_batch_size, training[:calibration], everywhere=True),
        test=batches("test", eval_batch_size),
    )


def parts(root: Path, test: float, warn: bool = False) -> dict[str, Files]:
    """Image files of "train" and "test", and of "valid" if there are folders for all three."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; {REMEDY}")
    inside = {path.name.lower(): path for path in sorted(root.iterdir()) if path.is_dir()}
    roles = {role: inside[name] for role, names in PARTS.items() for name in names if name in inside}
    if roles and "train" not in roles:
        raise FileNotFoundError(f"{root}: has {', '.join(path.name for path in roles.values())}, but no folder "
                                f"{' or '.join(PARTS['train'])}; {REMEDY}")  # fmt: skip
    files_of = {role: by_class(folder, REMEDY, warn) for role, folder in (roles or {"train": root}).items()}
    if "test" not in files_of and "valid" in files_of:
        files_of["test"] = files_of.pop("valid")
    if "test" not in files_of:
        files = files_of["train"]
        names = sorted({name for _, name in files})
        train, tested = division(str(root), torch.tensor([names.index(name) for _, name in files]), test)
        return {"train": [files[i] for i in train], "test": [files[i] for i in tested]}
    return files_of


def _measured(path: str) -> tuple[tuple[int, int], bool]:
    """Height and width of an image after its EXIF rotation, and whether it is grey; OSError or ValueError naming the file."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            turned = picture.getexif().get(0x0112, 1) > 4  # EXIF orientation: rotated by 90°
            size, mode = picture.size, picture.mode
    except Exception as error:  # a damaged file can raise errors of many classes
        raise OSError(
            f"{path}: damaged, or not an image ({error}); replace it with the original, or remove it"
        ) from error
    if mode.startswith("I") or mode == "F":
        raise ValueError(
            f"{path}: pixels of more than 8 bits (mode {mode}); store such images as an array (data=arrays)"
        )
    return (size if turned else size[::-1]), mode in ("1", "L", "LA", "La")


def _size(sizes: Sequence[tuple[int, int]]) -> Size:
    """The common size of all images; if there is none or it is larger than 224, the shortest side of any image (at most 224)."""
    if len(set(sizes)) == 1 and max(sizes[0]) <= LARGEST:
        return sizes[0][0] if sizes[0][0] == sizes[0][1] else list(sizes[0])
    return min(LARGEST, min(map(min, sizes)))


def _require_size(size: Size) -> None:
    """ValueError unless `size` is a positive integer, or two of them, or None."""
    sides = list(size) if isinstance(size, Sequence) else [size] * 2
    if size is not None and (len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides)):
        raise ValueError(
            f"data.image_size={size}: expected the side of a square, such as 64, or [height, width], such as [48,64]"
        )


def _steps(size: Size, channels: int, shape: Sequence[int]) -> Steps:
    """Transforms from a PIL image to an image of `shape`: EXIF rotation, resize, centre crop, grey if needed."""
    if channels not in (1, 3) or shape[0] != channels:
        raise ValueError(
            f"data.channels={channels}, data.input_shape={list(shape)}: expected 1 (grey) or 3 (colour) in both"
        )
    from PIL import ImageOps

    wanted = list(size) if isinstance(size, Sequence) else [size, size]
    if wanted != list(shape[1:]):
        raise ValueError(
            f"data.image_size={size}, data.input_shape={list(shape)}: the sizes differ; set only one of them"
        )
    resize = transform("Resize", size=size if isinstance(size, int) else wanted)
    grey = [transform("Grayscale", num_output_channels=1)] if channels == 1 else []
    return [ImageOps.exif_transpose, resize, transform("CenterCrop", size=wanted), *grey]


def _fits(files_of: dict[str, Files], shape: Sequence[int], memory: float) -> bool:
    """Whether all images together take less than `memory` GiB."""
    return sum(map(len, files_of.values())) * torch.Size(shape).numel() < memory * 2**30


def _decoded(images: ImageFiles, workers: int) -> Tensor:
    """All images as one uint8 tensor."""
    labels = torch.zeros(len(images.paths), dtype=torch.int64)
    reader = FolderBatches(images, labels, 50, [0.0], [1.0], workers=workers)
    return torch.cat(list(reader._load(torch.arange(len(labels)).split(50))))
