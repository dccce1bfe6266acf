"""Any network as one graph of its calls, captured by `torch.export` from the forward pass on an example batch."""

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
    """`network` in eval mode as a graph of modules and functions that computes the same for a batch of any size.

    Every module stands at the path that it has in `network`, and the names of weights stay.  What a forward pass calls as a
    function becomes a module where it has weights, pools, or is not linear: F.relu in layer1.0 becomes the module layer1.0.relu.
    An activation or operator has a module for every call (relu, relu_2, …; see `sites`); layers that are called again and tied
    weights stay shared.  Modules of `kinds` are one call each.  Every tensor of the graph that depends on the image has one
    dimension that is the batch, and neurons see it in front.

    `network` is not touched, and the graph shares no tensor with it.  A captured network is returned as it is.  ValueError naming
    what cannot be captured, with the reason and a remedy.
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
    """Was `network` made by `capture`?"""
    return isinstance(network, fx.GraphModule) and bool(network.meta.get("captured"))


def _put(network: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, leaf = path.rpartition(".")
    setattr(network.get_submodule(parent), leaf, module)


def _export(network: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """The export of `network` with a batch of any size; ValueError where it fails, or where the output is no tensor."""
    try:
        program = _exported(network, example, strict=False)
    except Exception as error:  # the forward pass is the user's: anything can come out
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
            f"{type(network).__name__}: the forward pass returns {_described(spec)}, expected one tensor; return the logits alone"
        )
    return program


def _exported(network: nn.Module, example: Tensor, strict: bool) -> torch.export.ExportedProgram:
    with _quiet():
        return export(network, (example,), dynamic_shapes=({0: Dim.DYNAMIC},), strict=strict)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without advice on how to export and the graphs of failed exports, of no use here."""
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
        return f"it takes more than one input; give {missing[1].rstrip('.')} a default, or wrap the network in one that has it"
    if "Constraints violated" in text:
        return "it computes with the number of images, or works for one size of batch only; use x.flatten(1), or -1 for the batch"
    if "data-dependent" in text.lower() or "GuardOnDataDependentSymNode" in type(error).__name__:
        return (
            "it branches on the values of a tensor, or its shapes depend on them; write it without (torch.where, masks)"
        )
    return f"{type(error).__name__}: {text.partition(chr(10))[0]}"
