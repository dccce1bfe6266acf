"""Activations of ours in the place of the ReLUs of any network."""

from collections.abc import Callable

from torch import Tensor, nn

from snnconv.nn.graph.canonical import is_canonical
from snnconv.nn.graph.capture import capture
from snnconv.nn.graph.rewrite import replace_relus


def with_activations(network: nn.Module, make: Callable[[], nn.Module], example: Tensor | None) -> nn.Module:
    """A copy of `network` in which every ReLU or clipped ReLU, in any spelling, is a module `make()` of its own.

    A network that tracing cannot follow surely (`is_canonical`) is captured on `example`, if there is one.  The copy can be
    trained: dropout and batch norms switch with `train()` and `eval()`; what only acts in training as part of a forward pass
    (stochastic depth, F.dropout) is left out.  ValueError where there is no ReLU, or where the network cannot be captured.
    """
    if example is None or (is_canonical(network) and any(isinstance(m, nn.ReLU) for m in network.modules())):
        return replace_relus(network, make)
    training = network.training
    return replace_relus(capture(network, example), make).train(training)
