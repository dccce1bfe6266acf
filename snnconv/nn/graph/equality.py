"""Comparison of a network with its graph and its folded graph: all must have the same outputs for the same images."""

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn

from snnconv.nn.graph.folding import fold_batchnorm
from snnconv.nn.graph.sites import is_site
from snnconv.nn.graph.trace import path_of, trace

EXACT = 1e-5  # largest difference in float64, as a share of the largest output
ROUNDED = 1e-2  # the same for networks that cannot compute in float64
IMAGES = 2  # number of images that are compared
Outputs = dict[str, Tensor]  # by path of the module, in order of the calls; "" is the network


@torch.no_grad()
def require_equal(network: nn.Module, captured: nn.Module, images: Tensor, kinds: tuple[type, ...] = ()) -> None:
    """Raise a ValueError naming the first difference between `network` (run twice), `captured`, and `captured` with folded norms.

    The comparison uses two of `images`, in eval mode and in float64, with a tolerance of 10⁻⁵ of the largest output; a network that
    cannot run in float64 is compared in its own precision, with 10⁻².  Networks and random generators are not changed.  Images of a
    wrong shape are not reported here.
    """
    like = next((t for t in (*network.parameters(), *network.buffers()) if t.is_floating_point()), images)
    for dtype, tolerance in ((torch.float64, EXACT), (like.dtype, ROUNDED)):
        try:
            with torch.random.fork_rng(devices=[]):
                _compare(network, captured, images[:IMAGES].to(like.device, dtype), tolerance, kinds)
            return
        except (RuntimeError, TypeError):  # unsupported precision, or a wrong shape
            continue


@torch.no_grad()
def differ_in_training(network: nn.Module, copied: nn.Module, images: Tensor) -> bool:
    """Whether outputs for two of `images` differ between two networks in training mode, with the same random numbers."""
    like = next((t for t in (*network.parameters(), *network.buffers()) if t.is_floating_point()), images)
    for dtype, tolerance in ((torch.float64, EXACT), (like.dtype, ROUNDED)):
        inputs = images[:IMAGES].to(like.device, dtype)
        try:
            expected, actual = (_in_training(candidate, inputs) for candidate in (network, copied))
        except (RuntimeError, TypeError, ValueError):  # unsupported precision, or a wrong shape
            continue
        return (
            not isinstance(expected, Tensor) or _first_difference({"": expected}, {"": actual}, tolerance) is not None
        )
    return False


def _in_training(network: nn.Module, images: Tensor) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return copy.deepcopy(network).to(images.dtype).train()(images.clone())


def _compare(
    network: nn.Module, captured: nn.Module, images: Tensor, tolerance: float, kinds: tuple[type, ...]
) -> None:
    name = type(network).__name__
    plain = copy.deepcopy(network).eval().to(images.dtype)
    expected = _module_outputs(plain, images)
    if (path := _first_difference(expected, _module_outputs(plain, images), tolerance)) is not None:
        raise ValueError(f"{name}: has different outputs for the same images in eval mode, first at {path}: it is random (active "
                         "dropout: pass training=self.training) or has a state; both cannot be converted")  # fmt: skip
    graph = copy.deepcopy(captured).eval().to(images.dtype)
    outputs = _computed(graph, images, kinds)
    if (path := _first_difference(expected, outputs, tolerance)) is not None:
        raise ValueError(f"{name}: the output of its graph differs from its forward pass, first at {path}")
    folded = _computed(fold_batchnorm(graph), images, kinds)
    at_sites = {
        p: x
        for p, x in outputs.items()
        if not p or is_site(graph.get_submodule(p)) or isinstance(graph.get_submodule(p), kinds)
    }
    if (path := _first_difference(at_sites, folded, tolerance)) is not None:
        raise ValueError(f"{name}: its output changes when batch norms are folded into layers, first at {path}")


def _module_outputs(network: nn.Module, images: Tensor) -> Outputs:
    """Outputs of the modules of `network`, each of the first call, and of the network, for `images`."""
    outputs: Outputs = {}

    def recorder(path: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and path not in outputs:
                outputs[path] = output.clone()

        return hook

    hooks = [
        m.register_forward_hook(recorder(path)) for path, m in network.named_modules() if path and not [*m.children()]
    ]
    try:
        result = network(images.clone())
    finally:
        for hook in hooks:
            hook.remove()
    return outputs | ({"": result} if isinstance(result, Tensor) else {})


class _Recorder(fx.Interpreter):
    """Runs a graph and records the first output of every module."""

    def __init__(self, network: nn.Module, kinds: tuple[type, ...]) -> None:
        super().__init__(fx.GraphModule(network, trace(network, kinds)))
        self.extra_traceback = False
        self.outputs: Outputs = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one operation."""
        output = super().run_node(n)
        if n.op == "call_module" and isinstance(output, Tensor):
            self.outputs.setdefault(path_of(n), output.clone())
        return output


def _computed(network: nn.Module, images: Tensor, kinds: tuple[type, ...]) -> Outputs:
    recorder = _Recorder(network, kinds)
    result = recorder.run(images.clone())
    return recorder.outputs | ({"": result} if isinstance(result, Tensor) else {})


def _first_difference(first: Outputs, second: Outputs, tolerance: float) -> str | None:
    """The first path at which outputs differ; None if the outputs of the networks agree."""

    def differ(path: str) -> bool:
        a, b = first[path], second[path]
        return a.shape != b.shape or not bool(
            ((a - b).abs() <= tolerance * a.abs().max()).all()
            or (torch.equal(a.isnan(), b.isnan()) and a.isnan().any())
        )

    if "" not in first or "" not in second or not differ(""):
        return None
    return next((path for path in first if path and path in second and differ(path)), "the output")
