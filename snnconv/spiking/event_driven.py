"""Event-driven convolutions on a CPU: they process only the inputs that are not 0.

Most neurons of a converted network are silent, and a dense convolution multiplies all their zeros.  `event_driven.cpp` iterates
over the spikes instead; it is compiled at first use.  It adds in another order, so results differ from a dense convolution by
rounding, as they do between two devices.
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
from torch.utils._python_dispatch import _get_current_dispatch_mode

from snnconv.nn.graph.rewrite import set_submodule
from snnconv.nn.kernels import is_hooked

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_suffix(".cpp")
FLAGS = ("-std=c++17", "-O3", "-shared", "-fPIC")
BEST = (("-march=native", "-fopenmp"), ("-march=native",), ())  # further flags: the first set that the compiler accepts
SMALL = 2**15  # an input with fewer elements is not computed faster
# Share of active inputs above which a dense convolution may be faster, by kernel size.
DENSE = {1: 0.2, 3: 0.3, 5: 0.3}


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernel, or None if no compiler can build it."""
    names = filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++"))
    compiler = next(filter(None, map(shutil.which, names)), None)
    reason = "no C++ compiler"
    for more in BEST if compiler else ():
        try:
            with TemporaryDirectory(ignore_cleanup_errors=True) as place:
                kernel = Path(place) / "kernel.so"
                command = [str(compiler), *FLAGS, *more, str(SOURCE), "-o", str(kernel)]
                subprocess.run(command, capture_output=True, text=True, errors="replace", check=True, timeout=120)
                return ctypes.CDLL(str(kernel))
        except subprocess.CalledProcessError as error:
            reason = f"{compiler}: {error.stderr[:1000].strip()}"
        except (OSError, subprocess.TimeoutExpired) as error:
            reason = str(error)
    log.info("Convolutions of spikes are computed as dense convolutions (%s)", reason)
    return None


def walk_spikes(network: fx.GraphModule) -> fx.GraphModule:
    """`network` with event-driven convolutions where possible; it shares all other modules and all weights."""
    faster = fx.GraphModule(network, network.graph)
    for path in {str(node.target) for node in network.graph.nodes if node.op == "call_module"}:
        if serves(network.get_submodule(path)):
            set_submodule(faster, path, EventDriven(network.get_submodule(path)))  # type: ignore[arg-type]
    return faster


def refresh(network: object) -> None:
    """Mark the weights of event-driven convolutions of `network` as changed, so that they are read again."""
    for module in network.modules() if isinstance(network, nn.Module) else ():
        if isinstance(module, EventDriven):
            module.packed = None


def serves(conv: nn.Module) -> bool:
    """Whether `conv` can be event-driven: an ordinary convolution of stride 1 whose output has the size of its input."""
    return (
        type(conv) is nn.Conv2d
        and conv.kernel_size[0] in DENSE
        and conv.kernel_size == (conv.kernel_size[0],) * 2
        and conv.padding in ((conv.kernel_size[0] // 2,) * 2, "same")
        and (conv.stride, conv.dilation, conv.groups, conv.padding_mode) == ((1, 1), (1, 1), 1, "zeros")
        and conv.out_channels % 16 == 0
    )


class EventDriven(nn.Module):
    """`conv`, computed event-driven if its input is large, mostly zero, channels_last, float32 and on a CPU.

    In all other cases (gradients, hooks on `conv`, autocast, counters of operations, weights that are not finite) `conv` itself
    runs.  The share of zeros is measured on a few samples.  The kernel reads the weights at the first call after `refresh`.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.packed: tuple[Tensor, ...] | None = None  # weights and biases as the kernel reads them

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D H W"]:
        """The convolution of `x`."""
        kernel = library() if self._sparse(x) else None
        threads = torch.get_num_threads()
        if kernel is None or len(x) < threads or (threads > 1 and not kernel.parallel()):
            return self.conv(x)
        self.packed = packed = self._pack(kernel.lanes()) if self.packed is None else self.packed
        if not packed:
            return self.conv(x)
        (images, channels, height, width), out = x.shape, self.conv.out_channels
        y = torch.empty((images, out, height, width), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (x, *packed, y)]
        kernel.convolution(*pointers, images, height, width, channels, out, self.conv.kernel_size[0], threads)
        return y

    def _sparse(self, x: Tensor) -> bool:
        weight = self.conv.weight
        if (
            not (x.device.type == weight.device.type == "cpu" and x.dtype == weight.dtype == torch.float32)
            or x.dim() != 4
            or x.numel() < SMALL
            or not x.is_contiguous(memory_format=torch.channels_last)
            or torch.is_grad_enabled()
            or torch.is_autocast_enabled("cpu")
            or is_hooked(self.conv)
            or _get_current_dispatch_mode() is not None
        ):
            return False
        some = x[:: -(-len(x) // 4)]
        return int(some.count_nonzero()) <= DENSE[self.conv.kernel_size[0]] * some.numel()

    def _pack(self, lanes: int) -> tuple[Tensor, ...]:
        """Weights [D/lanes, C, K, K, lanes] and biases [D]; () if a weight is not finite, because then 0 · weight is not 0."""
        weight, bias = self.conv.weight.detach(), self.conv.bias
        if not weight.isfinite().all():
            return ()
        blocks = weight.unflatten(0, (-1, lanes)).permute(0, 2, 3, 4, 1).contiguous()
        return blocks, weight.new_zeros(len(weight)) if bias is None else bias.detach().contiguous()
