"""A few images through the ReLU network: shapes of outputs, largest currents, and what fails."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from snnconv.conversion.obstacles import Obstacle, Step
from snnconv.nn.graph.kinds import NORMS
from snnconv.nn.graph.trace import path_of
from snnconv.spiking.operators.base import Encoder


class Trial(fx.Interpreter):
    """Runs images through the ReLU network and records `shapes` of outputs by node, `peaks`, the largest |current|s, by path."""

    def __init__(self, ann: nn.Module, walked: Sequence[Step], kinds: tuple[type, ...]) -> None:
        super().__init__(fx.GraphModule(ann, walked[0].node.graph if walked else fx.Graph()))
        self.extra_traceback, self.kinds = False, kinds
        self.sites = {step.node: step for step in walked}
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.peaks: dict[str, float] = {}

    @torch.no_grad()
    def show(self, images: Tensor, classes: int | None) -> Obstacle | None:
        """Run on `images`; return an obstacle if an operation fails or the output has a wrong shape, else None."""
        self.module.to(images.device)
        try:
            output = self.run(images)
        except _FailedError as failure:
            return failure.obstacle(images)
        if classes is not None and not (
            isinstance(output, Tensor) and output.dim() == 2 and output.shape[1] >= classes
        ):
            got = "×".join(map(str, output.shape[1:])) or "one number"
            return Obstacle(
                f"{type(self.module).__name__}: returns {got} for an image, expected {classes} logits (data.num_classes)"
            )
        return None

    def run_node(self, n: fx.Node) -> Any:
        """One operation; `_FailedError` naming it if it fails."""
        try:
            output = super().run_node(n)
        except Exception as error:  # the user's network may raise errors of any type
            step = self.sites.get(n)
            raise _FailedError(path_of(n), step.name if step else str(n.target)) from error
        if isinstance(output, Tensor):
            self.shapes[n] = tuple(output.shape[1:])
        return output

    def call_module(self, target: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Output of a module: ReLU for an activation; a batch norm uses the statistics of the batch."""
        module: Any = self.fetch_attr(target)
        if isinstance(module, self.kinds):
            self.peaks[target] = max(self.peaks.get(target, 0.0), args[0].abs().max().item())
            return args[0] if isinstance(module, Encoder) else args[0].clamp_min(0)
        output = super().call_module(target, args, kwargs)
        if not isinstance(module, NORMS) or output.numel() == output.shape[1]:
            return output
        return F.batch_norm(args[0], None, None, module.weight, module.bias, training=True)


class _FailedError(Exception):
    """An operation failed on its input."""

    def __init__(self, path: str, name: str) -> None:
        super().__init__(path)
        self.path, self.name = path, name

    def obstacle(self, images: Tensor) -> Obstacle:
        """The obstacle that describes this failure."""
        shape, reason = "×".join(map(str, images.shape[1:])), str(self.__cause__).partition("\n")[0]
        remedy = "does data.input_shape match the network?"
        if "dtype" in reason or "scalar type" in reason:
            remedy = "call .float() on the network, or pass images of the network's dtype"
        return Obstacle(f"fails on images of {shape} ({reason})", remedy, self.path, self.name)
