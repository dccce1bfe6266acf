"""Capture of any network as a graph of calls, by `torch.export` of the forward pass on an example batch."""

import copy
import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, export

from snnconv.nn.graph import leaves
from snnconv.nn.graph.lift import Lifting


@torch.no_grad()
def capture(network: nn.Module, example: Tensor, kinds: tuple[type, ...] = ()) -> fx.GraphModule:
    """`network` in eval mode as a graph of modules and functions with the same outputs, for any batch size.

    Modules keep their paths, and weights keep their names.  A function that has weights, pools, or is not linear becomes a module:
    F.relu in layer1.0 becomes the module layer1.0.relu.  An activation or operator has a separate module for every call (relu,
    relu_2, …; see `sites`); layers that are called several times and tied weights remain shared.  A module of `kinds` is one call.
    Every tensor that depends on the image has one batch dimension, which is the first dimension of inputs of neurons.

    `network` is not changed, and the graph shares no tensor with it.  A captured network is returned unchanged.  ValueError naming
    an operation that cannot be captured, with the reason and a remedy.
    """
    if is_captured(network):
        return network  # type: ignore[return-value]
    network = copy.deepcopy(network).eval()
    like = next((t for t in (*network.parameters(), *network.buffers()) if t.is_floating_point()), example)
    example = example[:1].to(like.device, like.dtype).repeat(3, *[1] * (example.dim() - 1))
    for path, module in [*network.named_modules(remove_duplicate=False)]:
        if path and leaves.is_opaque(module, kinds):
            _put(network, path, leaves.Opaque(module))
    program = _export(network, example)
    graph = Lifting(network, program).run()
    graph.meta["captured"] = True
    return graph.eval()


def is_captured(network: nn.Module) -> bool:
    """Whether `network` was returned by `capture`."""
    return isinstance(network, fx.GraphModule) and bool(network.meta.get("captured"))


def _put(network: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, leaf = path.rpartition(".")
    setattr(network.get_submodule(parent), leaf, module)


def _export(network: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """The export of `network` for any batch size; ValueError if it fails, or if the output is not a tensor."""
    try:
        program = _exported(network, example, strict=False)
    except Exception as error:  # the user's forward pass may raise errors of any class
        try:
            if "Constraints violated" not in str(error):
                raise
            program = _exported(
                network, example, strict=True
            )  # reads len(x) as the size of the batch, but fewer forward passes
        except Exception:
            raise ValueError(
                f"{type(network).__name__}: the forward pass cannot be captured: {_reason(error)}"
            ) from error
    spec: Any = program.call_spec.out_spec
    if not spec.is_leaf():
        raise ValueError(
            f"{type(network).__name__}: the forward pass returns {_described(spec)}, expected one tensor; return only the logits"
        )
    return program


def _exported(network: nn.Module, example: Tensor, strict: bool) -> torch.export.ExportedProgram:
    with _quiet():
        return export(network, (example,), dynamic_shapes=({0: Dim.DYNAMIC},), strict=strict)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress messages of torch.export about failed exports."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _described(spec: Any) -> str:
    if spec.type is dict:
        return f"a dict of {', '.join(map(repr, spec.context))}"
    return f"a {spec.type.__name__} of {spec.num_leaves}"


def _reason(error: Exception) -> str:
    """The cause of a failed export in words."""
    text = str(error).strip()
    if missing := re.search(r"missing (?:a|\d+) required (?:positional )?arguments?: (.*)", text):
        return f"it needs more than one input; give {missing[1].rstrip('.')} a default, or wrap the network"
    if "Constraints violated" in text:
        return "it computes with the number of images, or supports only one batch size; use x.flatten(1), or -1 for the batch"
    if "data-dependent" in text.lower() or "GuardOnDataDependentSymNode" in type(error).__name__:
        return "it branches on values of a tensor, or shapes depend on such values; use torch.where or masks instead"
    return f"{type(error).__name__}: {text.partition(chr(10))[0]}"
