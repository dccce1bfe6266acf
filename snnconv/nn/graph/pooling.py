"""Average pooling in a graph: one description of modules and functions, with windows or adaptive."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx, nn
from torch.nn import functional as F

MODULES = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
ADAPTIVE_MODULES = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
FUNCTIONS = (F.avg_pool2d,)
ADAPTIVE_FUNCTIONS = (F.adaptive_avg_pool2d,)
SETTINGS = {
    "kernel_size": None, "stride": None, "padding": 0, "ceil_mode": False, "count_include_pad": True, "divisor_override": None,
}  # fmt: skip


@dataclass(frozen=True)
class AveragePool:
    """Average pooling over windows, or adaptive pooling to `output_size` elements per dimension.

    Sizes are integers, or one integer for each spatial dimension.  `stride` is never None.
    """

    kernel_size: Any = None
    stride: Any = None
    padding: Any = 0
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor_override: int | None = None
    output_size: Any = None

    @property
    def adaptive(self) -> bool:
        """Whether the size of the output is given, and not that of the windows."""
        return self.kernel_size is None

    @property
    def whole(self) -> bool:
        """Whether it is global: adaptive pooling to one element."""
        return self.adaptive and set(_sizes(self.output_size)) == {1}

    @property
    def plain(self) -> bool:
        """Whether all windows have the same size and divisor, so that pooling is a sum times one number."""
        if self.adaptive:
            return self.whole
        counted = self.count_include_pad or not any(_sizes(self.padding))
        return counted and not self.ceil_mode and self.divisor_override is None

    def window(self, space: Sequence[int]) -> tuple[Any, Any, Any]:
        """Kernel size, stride and padding of each dimension for an input of size `space` [H, W]; global pooling is one window."""
        if self.whole:
            return tuple(space), tuple(space), (0,) * len(space)
        kernel, stride, padding = (_sizes(size, len(space)) for size in (self.kernel_size, self.stride, self.padding))
        return kernel, stride, padding


def average_pool(node: fx.Node, module: nn.Module | None) -> AveragePool | None:
    """Description of the average pooling of `node`, which runs `module` (None: calls a function); None for other operations.

    >>> import torch
    >>> class Net(nn.Module):
    ...     def forward(self, x):
    ...         return F.avg_pool2d(x, 2, padding=1)
    >>> node = list(fx.symbolic_trace(Net()).graph.nodes)[1]
    >>> average_pool(node, None).window([8, 8])
    ((2, 2), (2, 2), (1, 1))
    """
    function = node.target if module is None and node.op == "call_function" else None
    if isinstance(module, ADAPTIVE_MODULES):
        return AveragePool(output_size=module.output_size)
    if function in ADAPTIVE_FUNCTIONS:
        return AveragePool(output_size=_arguments(node, ("output_size",))["output_size"])
    settings: dict[str, Any]
    if isinstance(module, MODULES):
        settings = {name: getattr(module, name, default) for name, default in SETTINGS.items()}
    elif function in FUNCTIONS:
        settings = {**SETTINGS, **_arguments(node, tuple(SETTINGS))}
    else:
        return None
    return AveragePool(**{**settings, "stride": settings["stride"] or settings["kernel_size"]})


def _arguments(node: fx.Node, names: tuple[str, ...]) -> dict[str, Any]:
    """Arguments of a call after the input, by name."""
    positional = node.args if "input" in node.kwargs else node.args[1:]
    named = {name: value for name, value in node.kwargs.items() if name != "input"}
    return {**dict(zip(names, positional, strict=False)), **named}


def _sizes(size: Any, axes: int = 1) -> tuple[int, ...]:
    """One size for each dimension."""
    return (size,) * axes if isinstance(size, int) else tuple(size)
