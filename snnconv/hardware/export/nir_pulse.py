"""v(0) as a part of a NIR graph: the last channel of the input is 1 in the first timestep (a pulse) and 0 later.

    input [C + 1, …] ─┬─ image [C, …] ─ the layers of the network
                      └─ pulse [1, …] ─ relay (IF) ─ <layer>.v_initial ─ <layer> (IF), whose v(0) is 0

`image` and `pulse` select channels of the input.  The relay fires in the first timestep only; each weight layer behind it adds v(0)
to the current of its neurons, so v = v(0) + x after the first charge, as in the network.
"""

from itertools import pairwise
from typing import Any

import numpy as np

from snnconv.nn.graph.names import free_name

MEANING = "last channel of the input: 1 in the first timestep, then 0"
Edges = list[tuple[str, str]]


def with_pulse(nir: Any, nodes: dict[str, Any], edges: Edges, soft: dict[str, str]) -> tuple[dict[str, Any], Edges]:
    """Nodes and edges of a graph in which a pulse sets v(0); `soft` is the metadata of the reset of the relay.

    ValueError naming a layer whose v(0) differs between positions, or that is larger than the image.
    """
    shape = nodes["input"].input_type["input"].tolist()
    names = {name: free_name(name, nodes) for name in ("image", "pulse", "relay", "relay.first", "relay.flat")}
    select, ones = np.eye(shape[0] + 1, dtype=np.float32), np.ones((1, *shape[1:]), np.float32)
    added: dict[str, Any] = {
        "input": nir.Input({"input": np.array([shape[0] + 1, *shape[1:]])}),
        names["image"]: _weights(nir, shape[1:], select[:-1]),
        names["pulse"]: _weights(nir, shape[1:], select[-1:]),
        names["relay"]: nir.IF(r=ones, v_threshold=ones, v_reset=0 * ones, metadata={**soft, "v_initial": 0.0}),
    }
    edges = [(names["image"] if source == "input" else source, target) for source, target in edges]
    edges += [("input", names["image"]), *pairwise(["input", names["pulse"], names["relay"]])]
    flat = names["relay"]
    if len(shape) > 1 and any(_starts(node) and node.v_threshold.ndim == 1 for node in nodes.values()):
        whole, flat = names["relay.first"], names["relay.flat"]
        added[whole] = _weights(nir, shape[1:], np.ones((1, 1), np.float32), (1,) * (len(shape) - 1))
        added[flat] = nir.Flatten({"input": np.array([1] * len(shape))}, 0, -1)
        edges += pairwise([names["relay"], whole, flat])
    for name, node in nodes.items():
        if not _starts(node):
            continue
        size, path = node.v_threshold.shape, free_name(f"{name}.v_initial", nodes)
        first = _by_channel(name, node.metadata["v_initial"], size)
        added[path] = _weights(nir, shape[1:], first, size[1:], name) if len(size) > 1 else _linear(nir, first)
        edges += pairwise([names["relay"] if len(size) > 1 else flat, path, name])
        added[name] = nir.IF(node.r, node.v_threshold, node.v_reset, metadata={**node.metadata, "v_initial": 0.0})
    return {**nodes, **added}, edges


def _starts(node: Any) -> bool:
    """Whether this is a neuron whose v(0) is not 0."""
    return type(node).__name__ == "IF" and bool(np.any(node.metadata["v_initial"]))


def _by_channel(name: str, first: Any, size: tuple[int, ...]) -> np.ndarray:
    """v(0) of each channel, [C, 1]."""
    first = np.asarray(first, np.float32)
    if first.size not in (1, size[0]):
        raise ValueError(f"{name}: v(0) differs between positions of a channel, which a pulse cannot set; use "
                         "export.v_initial=metadata")  # fmt: skip
    return np.broadcast_to(first.reshape(-1), size[:1]).reshape(-1, 1).copy()


def _weights(nir: Any, space: Any, matrix: np.ndarray, after: Any = None, name: str = "") -> Any:
    """A layer that multiplies the channels of a `space` by `matrix` and selects positions, so that `after` remain."""
    if not len(space):
        return _linear(nir, matrix)
    after = tuple(space) if after is None else after
    if len(after) != len(space) or any(n > size for n, size in zip(after, space, strict=True)):
        raise ValueError(f"{name}: its size {list(after)} is larger than the image {list(space)}, so a pulse cannot set v(0); use "
                         "export.v_initial=metadata")  # fmt: skip
    stride = [max((size - 1) // (n - 1), 1) if n > 1 else 1 for size, n in zip(space, after, strict=True)]
    kernel = [int(size - (n - 1) * step) for size, n, step in zip(space, after, stride, strict=True)]
    weight = np.zeros((*matrix.shape, *kernel), np.float32)
    weight.reshape(*matrix.shape, -1)[:, :, 0] = matrix
    bias, zeros, ones = np.zeros(len(matrix), np.float32), [0] * len(kernel), [1] * len(kernel)
    if len(kernel) == 1:
        return nir.Conv1d(int(space[0]), weight, int(stride[0]), 0, 1, 1, bias)
    return nir.Conv2d((int(space[0]), int(space[1])), weight, [int(n) for n in stride], zeros, ones, 1, bias)


def _linear(nir: Any, matrix: np.ndarray) -> Any:
    return nir.Affine(matrix.copy(), np.zeros(len(matrix), np.float32))
