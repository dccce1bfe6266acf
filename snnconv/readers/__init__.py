"""Models of other tools built from NIR graphs of converted networks, with identical spikes.

    model = snnconv.readers.norse("network.nir")
    outputs = model.run(images, 32)                # [T, N, K]; a prediction is the largest of outputs.mean(0)

The metadata of a graph hold soft reset and v(0), which the readers of the tools ignore.  Here every neuron is a neuron of the
tool that subtracts its threshold, fires at v ≥ θ, and starts from v(0).
"""

from pathlib import Path
from typing import Any

from snnconv.readers.graph_model import GraphModel


def spikingjelly(path: str | Path) -> GraphModel:
    """The network in a .nir file with SpikingJelly's `IFNode`."""
    from snnconv.readers import spikingjelly_neuron

    return _read(path, spikingjelly_neuron.Neuron)


def snntorch(path: str | Path) -> GraphModel:
    """The network in a .nir file with snnTorch's `Leaky` (beta = 1)."""
    from snnconv.readers import snntorch_neuron

    return _read(path, snntorch_neuron.Neuron)


def sinabs(path: str | Path) -> GraphModel:
    """The network in a .nir file with sinabs' `IAF`."""
    from snnconv.readers import sinabs_neuron

    return _read(path, sinabs_neuron.Neuron)


def norse(path: str | Path) -> GraphModel:
    """The network in a .nir file with norse's `SNNCell`."""
    from snnconv.readers import norse_neuron

    return _read(path, norse_neuron.Neuron)


def _read(path: str | Path, neuron: Any) -> GraphModel:
    import nir

    return GraphModel(nir.read(Path(path)), neuron)
