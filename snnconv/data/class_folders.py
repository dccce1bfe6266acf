"""Folders of image files, one for each class."""

import logging
from pathlib import Path

log = logging.getLogger(__name__)

Files = list[tuple[str, str]]  # path and class of every image


def by_class(folder: Path, remedy: str, warn: bool = False) -> Files:
    """The images below a folder, whose subfolders are the classes; one without an image is none, which the log says with `warn`.

    FileNotFoundError without images, or without subfolders.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS, ImageFolder

    kinds = ", ".join(IMG_EXTENSIONS)

    try:
        images = ImageFolder(folder, allow_empty=True)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{folder}: not there, or no folders of classes in it; {remedy}") from error
    if not images.samples:
        raise FileNotFoundError(f"{folder}: no images in its folders (files of type {kinds}); {remedy}")
    full = {label for _, label in images.samples}
    for label, name in enumerate(images.classes):
        if warn and label not in full and not name.startswith((".", "_")):
            log.warning("%s: no images in it (files of type %s), so it is no class", folder / name, kinds)
    return [(path, images.classes[label]) for path, label in images.samples]


def some(names: set[str], most: int = 3) -> str:
    """A few of `names`, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(sorted(names)[:most]) + more if names else "none"
