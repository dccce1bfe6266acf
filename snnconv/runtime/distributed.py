"""One or several processes: rank, world size and sums over ranks.  All other code is written for one process."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

_alone = ContextVar("alone", default=False)


@contextmanager
def alone() -> Iterator[None]:
    """Context in which this process computes for itself, while the others wait or have finished: nothing is summed over ranks."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def _initialized() -> bool:
    return dist.is_initialized() and not _alone.get()


def rank() -> int:
    """The rank of this process, also before the process group is initialized (torchrun's RANK)."""
    return dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", 0))


def world_size() -> int:
    """The number of processes of this job."""
    if _alone.get():
        return 1
    return dist.get_world_size() if dist.is_initialized() else int(os.environ.get("WORLD_SIZE", 1))


def is_main() -> bool:
    """Whether this is rank 0, the only process that writes files and prints."""
    return rank() == 0


def share_of(count: int) -> int:
    """The share of this process in the first `count` images: every world-size-th image, at least 1."""
    return max(1, len(range(rank(), count, world_size())))


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The sum of `tensor` over all processes, on every process."""
    if _initialized():
        dist.all_reduce(tensor)
    return tensor


def largest_over_ranks(tensor: Tensor) -> Tensor:
    """The largest of each element of `tensor` over all processes, on every process."""
    if _initialized():
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return tensor


def broadcast(value: object) -> object:
    """Rank 0's `value`, on every process."""
    if not _initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def share_buffers(module: nn.Module) -> None:
    """Copy the buffers of `module` from rank 0 to every process, because statistics of batch norms differ between processes."""
    if _initialized():
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)


@contextmanager
def group(device: torch.device) -> Iterator[None]:
    """Context with the process group of a torchrun job (NCCL on CUDA, Gloo elsewhere); does nothing for a single process."""
    if world_size() == 1 or dist.is_initialized():
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def barrier() -> None:
    """Wait until every process has reached this point."""
    if _initialized():
        dist.barrier()
