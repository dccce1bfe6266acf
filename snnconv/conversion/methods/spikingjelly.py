"""SpikingJelly's own conversion as an entrant: what its recipes make of a ReLU network, under the same clock as the others."""

import contextlib
import functools
import io
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from spikingjelly.activation_based import ann2snn, neuron
from torch import fx, nn

from snnconv.conversion.method import converts
from snnconv.data.batches import in_batches
from snnconv.nn.graph.folding import fold_batchnorm
from snnconv.nn.graph.rewrite import replace_modules
from snnconv.nn.graph.trace import trace
from snnconv.spiking.latency import Latency
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.network import to_spiking
from snnconv.spiking.neurons.spikingjelly import SpikingJellyNeuron
from snnconv.spiking.simulation import Simulation


class _Neurons:
    """Mixed into a recipe: asks for neurons in the places of the ReLUs, and for nothing else.

    A recipe goes on to make the other layers run over several steps, and refuses a network with one that it does not know, as
    F.pad.  Here the clock of `SpikingModel` runs them.
    """

    def replace(self, converter: ann2snn.FXConverter, fx_model: fx.GraphModule) -> fx.GraphModule:
        """`fx_model`, in which the neurons stand; the recipe's own error where it did not get that far."""
        try:
            return super().replace(converter, fx_model)  # type: ignore[misc]
        except ValueError:
            if any(isinstance(module, nn.ReLU) for module in fx_model.modules()):
                raise
            return fx_model


class _RateCoding(_Neurons, ann2snn.RateCodingRecipe):
    pass


class _LocalThresholdBalancing(_Neurons, ann2snn.LocalThresholdBalancingRecipe):
    pass


def rate_coding(batches: Iterable, **settings: Any) -> ann2snn.RateCodingRecipe:
    """Thresholds from the largest activation or a percentile, a moving average over batches.

    ValueError for `half_threshold` without `channel_wise`, which SpikingJelly 2.0 would ignore.
    """
    if settings.get("half_threshold") and not settings.get("channel_wise"):
        raise ValueError("method.recipe.half_threshold=true: SpikingJelly honours it only with channel_wise=true")
    return _RateCoding(batches, **settings)


def local_threshold_balancing(batches: Iterable, **settings: Any) -> ann2snn.LocalThresholdBalancingRecipe:
    """Thresholds of each channel that grow with what they clip, one step a batch; v(0) = θ/2."""
    return _LocalThresholdBalancing(batches, **settings)


def _briefly(ann: nn.Module, batches: Iterable, *, iterations: int = 1, **settings: Any) -> SpikingModel:
    """`convert` with one iteration (or fewer, if that is the mistake)."""
    return convert(ann, batches, iterations=min(iterations, 1), **settings)


@converts(nn.ReLU, rehearse=_briefly, only_variants=True)
def convert(
    ann: nn.Module,
    batches: Iterable,
    *,
    recipe: Callable[[Iterable], ann2snn.FXConversionRecipe],
    iterations: int = 100,
    batch_size: int = 50,
    readout_from: int = 1,
    simulate: Simulation | Mapping[str, Any] | None = None,
) -> SpikingModel:
    """`ann` with the thresholds and nodes of SpikingJelly's `recipe`, in the places of its ReLUs.

    The recipe moves its thresholds `iterations` times, by `batch_size` calibration images.

    Emits the spikes of the network that `ann2snn.FXConverter(recipe).convert(ann)` returns (SpikingJelly 2.0), batch norms
    folded before it.  Logits before step `readout_from` do not count in the prediction (its `delay_start` + 1).

    ValueError without images, for settings out of range, where SpikingJelly refuses the network, or naming the path of every layer
    that cannot be carried.
    """
    if type(readout_from) is not int or readout_from < 1:
        raise ValueError(f"method.readout_from={readout_from}: an integer of at least 1")
    parts = in_batches(batches, batch_size, iterations)
    if not parts:
        raise ValueError(
            "SpikingJelly's recipes find thresholds on calibration images, and there are none (data.calibration)"
        )
    if clipped := [path for path, module in ann.named_modules() if hasattr(module, "ceiling")]:
        raise ValueError(
            f"{clipped[0]}: a clipped ReLU, which SpikingJelly's recipes would take for ReLU; choose method=percentile"
        )
    folded = replace_modules(fold_batchnorm(ann), nn.ReLU, lambda _: nn.ReLU())  # it overlooks subclasses
    neurons = spikingjelly_neurons(folded, recipe(parts))
    network = to_spiking(folded, nn.ReLU, lambda path, site: neurons[path])
    return SpikingModel(network, Latency(readout_from=readout_from), simulation=simulate)


EXAMPLE: dict[str, Any] = {
    "mode": "99.9%",
    "momentum": 0.1,
    "channel_wise": True,
    "half_threshold": True,
}  # of SpikingJelly, for ImageNet
RATE = "SpikingJelly's RateCodingRecipe, with the settings of its own ImageNet example (robust)."
LTB = "SpikingJelly's LocalThresholdBalancingRecipe."
convert.variant("spikingjelly_rate", RATE, recipe=functools.partial(rate_coding, **EXAMPLE))
convert.variant("spikingjelly_ltb", LTB, recipe=local_threshold_balancing)


def spikingjelly_neurons(network: nn.Module, recipe: ann2snn.FXConversionRecipe) -> dict[str, SpikingJellyNeuron]:
    """The neuron that `recipe` puts in the place of each ReLU of `network`, by the path of the ReLU."""
    paths = [str(node.target) for node in trace(network).nodes if node.op == "call_module"]
    paths = [path for path in paths if isinstance(network.get_submodule(path), nn.ReLU)]
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            converted = ann2snn.FXConverter(recipe).convert(network)
    except Exception as error:  # it raises what it meets on its way
        raise ValueError(
            f"{type(network).__name__}: SpikingJelly cannot convert it ({error}); "
            "choose method=percentile or method=threshold_balancing"
        ) from error
    modules: dict[str, Any] = dict(converted.named_modules())
    neurons = []
    for node in converted.graph.nodes:
        if isinstance(modules.get(str(node.target)), neuron.BaseNode):
            before, after = modules[node.args[0].target], modules[next(iter(node.users)).target]
            neurons.append(SpikingJellyNeuron(modules[node.target], before.scale, after.scale))
    return dict(zip(paths, neurons, strict=True))  # both in the order of the forward pass
