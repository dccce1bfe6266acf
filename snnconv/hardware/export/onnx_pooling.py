"""Average and max pooling as ONNX nodes."""

from typing import Any

from torch import fx, nn

from snnconv.hardware.export.normal_values import site
from snnconv.hardware.export.onnx_nodes import MOST_LEVELS, Nodes
from snnconv.nn.graph.pooling import AveragePool, average_pool


def pooled(nodes: Nodes, node: fx.Node, module: Any, inputs: list[str], path: str) -> str | None:
    """The name of the output of `node` if it pools; None for other operations."""
    space: Any = node.all_input_nodes[0].meta["tensor_meta"].shape[2:] if inputs else ()
    pool = average_pool(node, module) if len(space) == 2 else None
    if pool is not None:
        return _averaged(nodes, node, module, pool, inputs[0], path)
    if isinstance(module, nn.MaxPool2d):
        if module.ceil_mode or module.return_indices:
            raise ValueError(f"{site(node, module)}: ceil_mode and return_indices are not supported")
        return nodes.emit_moved("MaxPool", inputs, path, kernel_shape=_pair(module.kernel_size), strides=_pair(module.stride),
                                pads=_pair(module.padding) * 2, dilations=_pair(module.dilation))  # fmt: skip
    return None


def _averaged(nodes: Nodes, node: fx.Node, module: Any, pool: AveragePool, x: str, path: str) -> str:
    space = node.all_input_nodes[0].meta["tensor_meta"].shape[2:]
    if pool.whole:
        return _rounded(nodes, nodes.emit("GlobalAveragePool", [x], path), x, path, space[0] * space[1])
    if pool.adaptive:
        raise ValueError(
            f"{site(node, module)}: adaptive pooling to {pool.output_size} does not exist in ONNX; use size 1"
        )
    if pool.ceil_mode or pool.divisor_override is not None:
        raise ValueError(f"{site(node, module)}: ceil_mode and divisor_override do not exist in ONNX")
    kernel, stride, padding = (list(sizes) for sizes in pool.window(space))
    average = nodes.emit("AveragePool", [x], path, kernel_shape=kernel, strides=stride, pads=padding * 2,
                         count_include_pad=int(pool.count_include_pad))  # fmt: skip
    exact = pool.count_include_pad or not any(padding)
    return _rounded(nodes, average, x, path, kernel[0] * kernel[1]) if exact else average


def _rounded(nodes: Nodes, average: str, x: str, path: str, window: int) -> str:
    """Averages of levels as QDQ nodes of scale step / window; without them openvino would round to multiples of the step."""
    step, levels = nodes.levels.get(x, (None, 0))
    if step is None or levels * window > MOST_LEVELS:
        return average
    _, output = nodes.quantized(average, f"{path}.average", step / window, levels * window)
    return output


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else [int(n) for n in value]
