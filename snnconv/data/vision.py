"""CIFAR-10, CIFAR-100 and Fashion-MNIST from the files torchvision uses; a missing set is downloaded by torchvision."""

import hashlib
import io
import logging
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snnconv.data.splits import Splits, cut

log = logging.getLogger(__name__)


def cifar10(root: str, **options: Any) -> Splits:
    """CIFAR-10 (Krizhevsky, 2009): 50,000 + 10,000 colour images of 32×32, 10 classes."""
    from torchvision import datasets  # imported here because it takes a second

    return _cifar(datasets.CIFAR10, root, "labels", **options)


def cifar100(root: str, **options: Any) -> Splits:
    """CIFAR-100 (Krizhevsky, 2009): 50,000 + 10,000 colour images of 32×32, 100 classes."""
    from torchvision import datasets

    return _cifar(datasets.CIFAR100, root, "fine_labels", **options)


def fashion_mnist(root: str, **options: Any) -> Splits:
    """Fashion-MNIST (Xiao et al., 2017): 60,000 + 10,000 grey images of 28×28, 10 classes."""
    from torchvision import datasets

    folder = Path(root) / "FashionMNIST" / "raw"
    names = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    _provide(datasets.FashionMNIST, root, folder, names)

    def read(train: bool) -> tuple[Tensor, Tensor]:
        try:
            part = datasets.FashionMNIST(root, train=train)
        except (RuntimeError, ValueError, AssertionError, EOFError) as error:
            files = ", ".join(names[:2] if train else names[2:])
            raise ValueError(f"{folder}: {files}: damaged ({error}); remove it to download it again") from error
        return part.data.unsqueeze(1), part.targets.long()

    return cut("fashion_mnist", read(True), read(False), **options)


def _provide(kind: Any, root: str, folder: Path, names: Sequence[str]) -> None:
    """Download the data set unless all its files exist; FileNotFoundError naming the missing files if that fails."""
    missing = [name for name in names if not (folder / name).is_file()]
    if not missing:
        return
    log.info("%s: %s not found in %s; downloading", kind.__name__, ", ".join(missing), folder)
    created = not Path(root).exists()
    try:
        kind(root, download=True)
    except Exception as error:  # network, server and disk raise errors of many classes; the remedy is the same
        if created and Path(root).is_dir() and not any(path.is_file() for path in Path(root).rglob("*")):
            for path in sorted(Path(root).rglob("*"), reverse=True):
                path.rmdir()
            Path(root).rmdir()
        raise FileNotFoundError(
            f"{kind.__name__}: {folder} lacks {', '.join(missing)}, and the download failed ({error}); put the files there, "
            "or set data.root or SNNCONV_DATA to the folder that holds them"
        ) from error


def _cifar(kind: Any, root: str, label_key: str, **options: Any) -> Splits:
    folder = Path(root) / kind.base_folder
    sums = dict(kind.train_list + kind.test_list)
    _provide(kind, root, folder, list(sums))

    different: list[str] = []

    def read(names: Sequence[str]) -> tuple[Tensor, Tensor]:
        parts = []
        for name in names:
            raw = (folder / name).read_bytes()
            parts.append(_cifar_file(folder / name, raw, label_key))
            if hashlib.md5(raw, usedforsecurity=False).hexdigest() != sums[name]:
                different.append(name)
        images, labels = (torch.cat(column) for column in zip(*parts, strict=True))
        return images, labels

    train, test = (read([name for name, _ in files]) for files in (kind.train_list, kind.test_list))
    if different:
        log.info("%s: not the published files (by MD5), used as they are: %s", folder, ", ".join(different))
    return cut(kind.__name__, train, test, **options)


class _ArraysOnly(pickle.Unpickler):
    """Unpickler for CIFAR's files that restores only NumPy arrays and plain values, and refuses any other class or function."""

    ALLOWED = frozenset({"_reconstruct", "ndarray", "dtype", "_frombuffer", "encode"})
    MODULES = frozenset({"numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy._core.numeric", "_codecs"})

    def find_class(self, module: str, name: str) -> Any:
        if module in self.MODULES and name in self.ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it contains {module}.{name}, which is not an array")


def _cifar_file(path: Path, raw: bytes, label_key: str) -> tuple[Tensor, Tensor]:
    """Images uint8 [M, 3, 32, 32] and labels [M] of the content `raw` of one batch file."""
    try:
        content = _ArraysOnly(io.BytesIO(raw), encoding="latin1").load()
        images = np.asarray(content["data"]).reshape(-1, 3, 32, 32)
        labels = torch.tensor(content[label_key])
        if images.dtype != np.uint8 or labels.shape != (len(images),):
            raise ValueError(f"{images.dtype} images {images.shape}, labels {tuple(labels.shape)}")
    except Exception as error:  # a damaged pickle can raise errors of many classes
        raise ValueError(
            f"{path}: damaged, or not of the python version of CIFAR ({type(error).__name__}: {error}); "
            f"expected 'data' and '{label_key}'; remove the folder to download it again"
        ) from error
    return torch.from_numpy(images.copy()), labels
