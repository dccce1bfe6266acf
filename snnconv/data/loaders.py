"""Batches from anything iterable: a DataLoader, a list, a tensor, a generator."""

from collections.abc import Iterable, Iterator, Sized
from typing import Any

import torch
from torch import Tensor, nn


def device_of(network: nn.Module) -> torch.device:
    """The device of the first parameter or buffer of `network`; the CPU if it has none.  TypeError if it is not an nn.Module."""
    if not isinstance(network, nn.Module):
        raise TypeError(f"{type(network).__name__}: expected a network, an nn.Module with its weights loaded")
    tensors = (*network.parameters(), *network.buffers())
    return tensors[0].device if tensors else torch.device("cpu")


class Loader:
    """Batches (inputs, targets) on `device` from any iterable of such pairs, or of inputs alone.

    A tensor [N, …] is one batch of inputs, and a tuple (inputs [N, …], targets [N, …]) of tensors is one batch.  If there
    are no targets, or they are not a tensor, targets are zeros [N]; with `labelled` this is a ValueError.  An iterator, which can
    be read only once, is read into memory.  TypeError naming an item that is neither a tensor nor a sequence that starts with one.
    """

    def __init__(self, source: Any, device: torch.device | str, *, labelled: bool = False) -> None:
        self.source: Any = source
        self.labelled = labelled
        self.device = torch.device(device)
        if isinstance(source, Tensor) or (isinstance(source, tuple) and _is_batch(source)):
            self.source = [source]
        elif not isinstance(source, Iterable):
            raise TypeError(f"{type(source).__name__}: expected an iterable of (inputs, targets), such as a DataLoader")
        elif isinstance(source, Iterator):
            self.source = list(source)
        self._sizes: tuple[int, int] | None = None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass."""
        for item in self.source:
            inputs, targets = _pair(item, self.labelled)
            yield inputs.to(self.device, non_blocking=True), targets.to(self.device, non_blocking=True)

    def _counted(self) -> tuple[int, int]:
        """Number of batches and of samples in one pass; counted in a pass if the source does not provide them."""
        if self._sizes is None:
            sampler = getattr(self.source, "sampler", None)
            if getattr(self.source, "batch_sampler", None) is not None and isinstance(sampler, Sized):
                self._sizes = len(self.source), len(sampler)
            else:
                lengths = [len(_pair(item)[0]) for item in self.source]
                self._sizes = len(lengths), sum(lengths)
        return self._sizes

    def __len__(self) -> int:
        """Number of batches in one pass."""
        return self._counted()[0]

    @property
    def count(self) -> int:
        """Number of samples in one pass."""
        return self._counted()[1]

    def set_epoch(self, epoch: int) -> None:
        """Call `set_epoch` of the source and of its sampler, if they have it."""
        for part in (self.source, getattr(self.source, "sampler", None)):
            if hasattr(part, "set_epoch"):
                part.set_epoch(epoch)  # type: ignore[union-attr]

    def first(self, samples: int) -> list[tuple[Tensor, Tensor]]:
        """The first batches, in memory: `samples` samples, or all if there are fewer."""
        batches: list[tuple[Tensor, Tensor]] = []
        left = samples
        for inputs, targets in self:
            batches.append((inputs[:left], targets[:left]))
            left -= len(inputs)
            if left <= 0:
                break
        return batches


def _is_batch(source: tuple) -> bool:
    """Whether `source` is one batch (inputs, targets), and not a tuple of batches of inputs."""
    if len(source) != 2 or not all(isinstance(part, Tensor) and part.dim() for part in source):
        return False
    inputs, targets = source
    return len(inputs) == len(targets) and (targets.dim() < inputs.dim() or not targets.is_floating_point())


def _pair(item: Any, labelled: bool = False) -> tuple[Tensor, Tensor]:
    """The inputs and targets of one batch; ValueError if it is `labelled` and has no target for each input."""
    parts = item if isinstance(item, tuple | list) else (item,)
    if not parts or not isinstance(parts[0], Tensor) or not parts[0].dim():
        raise TypeError(
            f"a batch has type {type(item).__name__}: expected a tensor of inputs [N, …], or (inputs, targets) with inputs first"
        )
    targets = parts[1] if len(parts) > 1 else None
    if not (isinstance(targets, Tensor) and targets.dim() and len(targets) == len(parts[0])):
        if labelled:
            got = f"{len(targets)} targets" if isinstance(targets, Tensor) and targets.dim() else "no targets"
            raise ValueError(f"a batch of {len(parts[0])} inputs has {got}; expected (inputs [N, …], targets [N, …])")
        targets = torch.zeros(len(parts[0]), dtype=torch.long)
    return parts[0], targets
