"""Confusion of classes: right and wrong predictions of a classification, by class."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from snnconv.runtime import distributed
from snnconv.spiking.tasks import Task

WHOLE = 20  # classes up to which every wrong pair is listed; of more classes, as many of the most frequent ones
MOST = 4096  # classes up to which pairs are counted


@dataclass(frozen=True)
class Confusion:
    """Images and right predictions by class, and wrong predictions, the most frequent first."""

    images: list[int]
    right: list[int]
    wrong: list[tuple[int, int, int]]  # class, predicted class, images

    def as_dict(self) -> dict[str, Any]:
        """Plain values for `result.json`."""
        return {"images": self.images, "right": self.right, "wrong": [list(pair) for pair in self.wrong]}


class Counts:
    """Adds predictions batch by batch; counts nothing of tasks other than classification."""

    def __init__(self, task: Task) -> None:
        self.counts = task.name == "classify"
        self.table: Tensor | None = None  # [class, predicted class]

    def add(self, outputs: Tensor, labels: Tensor) -> None:
        """Count a batch of outputs [N, K] and classes [N]; labels that are no class are not counted."""
        if not self.counts or outputs.dim() != 2 or outputs.shape[1] > MOST:
            return
        classes = outputs.shape[1]
        if self.table is None:
            self.table = torch.zeros(classes, classes, dtype=torch.int64, device=outputs.device)
        labels = labels.to(outputs.device)
        counted = (labels >= 0) & (labels < classes)  # as a weight: no shape depends on values, so a GPU need not wait
        pairs = labels.clamp(0, classes - 1), outputs.argmax(1)
        self.table.index_put_(pairs, counted.long(), accumulate=True)

    def total(self, images: float) -> Confusion | None:
        """Counts of all processes for `images` images; None if nothing was counted.  ValueError if some labels are no class."""
        if self.table is None:
            return None
        table = distributed.sum_over_ranks(self.table).cpu()
        if other := int(images - table.sum()):
            raise ValueError(f"{other} of {int(images)} targets are no class of the network, which has {len(table)} outputs: "
                             f"targets are integers from 0 to {len(table) - 1}")  # fmt: skip
        right, classes = table.diagonal().clone(), len(table)
        wrong = table.clone().fill_diagonal_(0).flatten()
        listed = wrong.argsort(descending=True, stable=True)[: WHOLE if classes > WHOLE else None]
        pairs = [(index // classes, index % classes, int(wrong[index])) for index in listed.tolist() if wrong[index]]
        return Confusion(table.sum(1).tolist(), right.tolist(), pairs)
