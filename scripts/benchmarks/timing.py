"""Seconds and memory of actions that run in turns, round after round.

A figure is the median over the rounds, with the extremes beside it, and a ratio is the median of the ratios round by round, so that
a drift of the machine's speed does not change it.  Memory is the peak of tensors allocated by one call (on CUDA: by the allocator),
without workspaces inside a kernel and without tensors that exist before the call (weights, momentum).
"""

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Action = Callable[[], object]


def timed(actions: dict[str, Action], rounds: int, warmup: int = 2) -> dict[str, list[float]]:
    """Seconds of every action in every round, in turns, after `warmup` rounds that do not count."""

    def once(action: Action) -> float:
        start = time.perf_counter()
        action()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    for action in (*actions.values(),) * warmup:
        once(action)
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            seconds[name].append(once(action))
    return seconds


class LiveBytes(TorchDispatchMode):
    """Peak bytes of the tensors that are allocated while the context is open."""

    def __init__(self) -> None:
        super().__init__()
        tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)]
        self.existing = {StorageWeakRef(tensor.untyped_storage()) for tensor in tensors}
        self.alive: dict[StorageWeakRef, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if (
                isinstance(tensor, Tensor)
                and (storage := StorageWeakRef(tensor.untyped_storage())) not in self.existing
            ):
                self.alive.setdefault(storage, tensor.untyped_storage().nbytes())
        self.alive = {storage: size for storage, size in self.alive.items() if not storage.expired()}
        self.peak = max(self.peak, sum(self.alive.values()))
        return result


def peak_memory(action: Action) -> float:
    """Peak MiB of tensors that an action allocates, beyond those that exist before."""
    action()
    if DEVICE == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        action()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with LiveBytes() as live:
        action()
    return live.peak / 2**20


def slope(xs: list[int], seconds: list[float]) -> float:
    """The exponent k of seconds ~ x^k, by least squares on logarithms."""
    x, y = (torch.tensor(values, dtype=torch.float64).log() for values in (xs, seconds))
    return float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())


class Report:
    """Collects groups of rows; prints each as a table when it is complete."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.console = Console(width=130)

    def group(self, title: str, actions: dict[str, Action], rounds: int, *, images: int = 0, floors: dict[str, str] | None = None,
              memory: dict[str, float] | None = None, warmup: int = 2) -> dict[str, list[float]]:  # fmt: skip
        """Time `actions` and print them relative to the first (or to the floor that `floors` names for them); the seconds."""
        seconds, first = timed(actions, rounds, warmup), next(iter(actions))
        table = Table(title=title, title_justify="left")
        for column in (
            "variant",
            "median s",
            "min … max",
            "ratio",
            "to",
            *(["images/s"] if images else []),
            *(["MiB"] if memory else []),
        ):
            table.add_column(column, justify="left" if column in ("variant", "to") else "right")
        for name, times in seconds.items():
            floor = (floors or {}).get(name, first)
            ratio = statistics.median(a / b for a, b in zip(times, seconds[floor], strict=True))
            row: dict[str, Any] = {"group": title, "variant": name, "seconds": times, "ratio": ratio, "floor": floor}
            cells = [
                name,
                f"{statistics.median(times):.4f}",
                f"{min(times):.4f} … {max(times):.4f}",
                f"{ratio:.3f}",
                floor,
            ]
            if images:
                row["images_per_second"] = images / statistics.median(times)
                cells.append(f"{row['images_per_second']:.0f}")
            if memory:
                row["peak_mib"] = memory.get(name)
                cells.append(f"{memory[name]:.0f}" if name in memory else "")
            table.add_row(*cells)
            self.rows.append(row)
        self.console.print(table)
        return seconds

    def note(self, title: str, **figures: float) -> None:
        """A line of figures."""
        self.rows.append({"group": title, **figures})
        self.console.print(f"{title}: " + ", ".join(f"{key} {value:.3g}" for key, value in figures.items()))
