"""Facts that torch's own errors leave out, added to them as notes."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def noting_inputs(network: nn.Module, inputs: Tensor, targets: Tensor | None = None) -> Iterator[None]:
    """Add the shapes of `inputs` and `targets` to an error of torch about shapes, types or classes (`error.add_note`)."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, IndexError) as error:
        if not getattr(error, "__notes__", ()):
            error.add_note(f"{network._get_name()} was given inputs {_described(inputs)}")
            if targets is not None:
                error.add_note(f"and targets {_described(targets)}")
        raise


def with_notes(error: BaseException) -> str:
    """The message of `error` and its notes in one line."""
    return "; ".join([str(error), *getattr(error, "__notes__", ())])


def _described(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} of {tensor.dtype}".replace("torch.", "")
