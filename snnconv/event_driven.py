"""Convolutions that work where there are spikes and nowhere else, on a CPU.

A converted network is silent most of the time, and a dense convolution multiplies all those zeros.  `event_driven.cpp` walks the
spikes instead; it is compiled when it is first needed.  Sums are taken in another order, so results differ from those of a dense
convolution as those of two devices do.
"""

import ctypes
import functools
import logging
import os
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn

from snnconv.surgery import set_submodule

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_suffix(".cpp")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-shared", "-fPIC")
OPENMP = ("-fopenmp",)  # threads, where the compiler has them
SMALL = 2**15  # numbers in an input below which nothing is gained
DENSE = 0.4  # share of active inputs above which a dense convolution is faster
SIZES = (1, 3, 5)  # of kernels


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernel; None where no compiler makes it."""
    known = filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++"))
    compiler = next(filter(None, map(shutil.which, known)), None)
    reason = "no C++ compiler"
    try:
        with TemporaryDirectory(ignore_cleanup_errors=True) as place:
            kernel = Path(place) / "kernel.so"
            for threads in (OPENMP, ()) if compiler else ():
                command = [str(compiler), *FLAGS, *threads, str(SOURCE), "-o", str(kernel)]
                made = subprocess.run(command, capture_output=True, text=True)
                if made.returncode == 0:
                    return ctypes.CDLL(str(kernel))
                reason = f"{compiler}: {made.stderr[:1000].strip()}"
    except OSError as error:
        reason = str(error)
    log.info("Convolutions of spikes stay dense (%s)", reason)
    return None


def walk_spikes(network: fx.GraphModule) -> fx.GraphModule:
    """`network` with every convolution that can be so event-driven; all other modules, and all weights, are its own."""
    faster = fx.GraphModule(network, network.graph)
    for path, module in network.named_modules():
        if serves(module):
            set_submodule(faster, path, EventDriven(module))
    return faster


def refresh(network: object) -> None:
    """Let the event-driven convolutions of `network` see weights that have changed."""
    for module in network.modules() if isinstance(network, nn.Module) else ():
        if isinstance(module, EventDriven):
            module.packed = None


def serves(conv: nn.Module) -> bool:
    """Can the spikes that reach this layer be walked: an ordinary convolution of stride 1 that keeps the size of its input?"""
    return (
        type(conv) is nn.Conv2d
        and conv.kernel_size[0] in SIZES
        and conv.kernel_size == (conv.kernel_size[0],) * 2
        and conv.padding in ((conv.kernel_size[0] // 2,) * 2, "same")
        and (conv.stride, conv.dilation, conv.groups, conv.padding_mode) == ((1, 1), (1, 1), 1, "zeros")
        and conv.out_channels % 16 == 0
    )


class EventDriven(nn.Module):
    """`conv`, walking the spikes of its input where it is a CPU's, float32, channels last, large, and mostly zero.

    Anything else goes the usual way, gradients among it.  How much is zero is asked of the first sample.  Weights are those of the
    first call after `refresh`.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.packed: tuple[Tensor, Tensor] | None = None  # weights and biases as the kernel reads them

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D H W"]:
        """The convolution of `x`."""
        kernel = library() if self._sparse(x) else None
        if kernel is None:
            return self.conv(x)
        self.packed = self.packed or self._pack(kernel.lanes())
        (images, channels, height, width), out = x.shape, self.conv.out_channels
        y = torch.empty((images, out, height, width), memory_format=torch.channels_last)
        pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (x, *self.packed, y)]
        kernel.convolution(
            *pointers, images, height, width, channels, out, self.conv.kernel_size[0], torch.get_num_threads()
        )
        return y

    def _sparse(self, x: Tensor) -> bool:
        return (
            x.device.type == "cpu"
            and x.dtype == self.conv.weight.dtype == torch.float32
            and x.dim() == 4
            and x.numel() >= SMALL
            and x.is_contiguous(memory_format=torch.channels_last)
            and not torch.is_grad_enabled()
            and int(x[0].count_nonzero()) <= DENSE * x[0].numel()
        )

    def _pack(self, lanes: int) -> tuple[Tensor, Tensor]:
        """Weights [D/lanes, C, K, K, lanes], and biases [D]."""
        weight, bias = self.conv.weight.detach(), self.conv.bias
        blocks = weight.unflatten(0, (-1, lanes)).permute(0, 2, 3, 4, 1).contiguous()
        return blocks, weight.new_zeros(len(weight)) if bias is None else bias.detach().contiguous()
