"""Image files in one folder per class."""

import logging
from pathlib import Path

log = logging.getLogger(__name__)

Files = list[tuple[str, str]]  # path and class of every image


def by_class(folder: Path, remedy: str, warn: bool = False) -> Files:
    """Path and class of every image in the subfolders of a folder; each subfolder is a class.

    A subfolder without images is not a class; with `warn` a warning is logged for it.  FileNotFoundError if there are no images
    or no subfolders.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS, ImageFolder

    kinds = ", ".join(IMG_EXTENSIONS)

    try:
        images = ImageFolder(folder, allow_empty=True)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{folder}: no such folder, or it has no subfolders (one per class); {remedy}"
        ) from error
    if not images.samples:
        raise FileNotFoundError(f"{folder}: no images (files of type {kinds}) in its subfolders; {remedy}")
    full = {label for _, label in images.samples}
    for label, name in enumerate(images.classes):
        if warn and label not in full and not name.startswith((".", "_")):
            log.warning("%s: ignored, because it holds no images (files of type %s)", folder / name, kinds)
    return [(path, images.classes[label]) for path, label in images.samples]


def some(names: set[str], most: int = 3) -> str:
    """The first `most` of `names`, and the number of the others."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(sorted(names)[:most]) + more if names else "none"
