"""SpikingJelly's own conversion recipes as methods, simulated in the same way as all other methods."""

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
    """Mixin for a recipe that replaces ReLUs by neurons and leaves all other layers as they are.

    A recipe would also wrap the other layers so that they run over several steps, and raises an error for layers that it does not
    support, such as F.pad.  Here `SpikingModel` runs them step by step.
    """

    def replace(self, converter: ann2snn.FXConverter, fx_model: fx.GraphModule) -> fx.GraphModule:
        """`fx_model` with neurons; raises the recipe's own error if a ReLU is left."""
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
    """Recipe for thresholds from the largest activation or a percentile, as a moving average over batches.

    ValueError for `half_threshold` without `channel_wise`, because SpikingJelly 2.0 would ignore `half_threshold`.
    """
    if settings.get("half_threshold") and not settings.get("channel_wise"):
        raise ValueError("method.recipe.half_threshold=true: SpikingJelly honours it only with channel_wise=true")
    return _RateCoding(batches, **settings)


def local_threshold_balancing(batches: Iterable, **settings: Any) -> ann2snn.LocalThresholdBalancingRecipe:
    """Recipe for one threshold per channel, which grows with the activation that it clips, once per batch; v(0) = θ/2."""
    return _LocalThresholdBalancing(batches, **settings)


def _briefly(ann: nn.Module, batches: Iterable, *, iterations: int = 1, **settings: Any) -> SpikingModel:
    """`convert` with at most one iteration (an `iterations` below 1 still raises its error)."""
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
    """`ann` with the thresholds and neurons of SpikingJelly's `recipe` in place of its ReLUs.

    The recipe updates its thresholds `iterations` times, each time with `batch_size` calibration images.

    The spikes equal those of the network that `ann2snn.FXConverter(recipe).convert(ann)` returns (SpikingJelly 2.0) after batch
    norms are folded.  Logits before step `readout_from` do not count in the prediction (`delay_start` + 1 in SpikingJelly).

    ValueError without images, for settings out of range, if SpikingJelly cannot convert the network, or naming the path of every
    layer that cannot be converted.
    """
    if type(readout_from) is not int or readout_from < 1:
        raise ValueError(f"method.readout_from={readout_from}: must be an integer of at least 1")
    parts = in_batches(batches, batch_size, iterations)
    if not parts:
        raise ValueError(
            "SpikingJelly's recipes need calibration images to compute thresholds, and there are none (data.calibration)"
        )
    if clipped := [path for path, module in ann.named_modules() if hasattr(module, "ceiling")]:
        raise ValueError(
            f"{clipped[0]}: a clipped ReLU, which SpikingJelly's recipes would treat as a ReLU; choose method=percentile"
        )
    folded = replace_modules(fold_batchnorm(ann), nn.ReLU, lambda _: nn.ReLU())  # SpikingJelly overlooks subclasses
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
    """The neuron by which `recipe` replaces each ReLU of `network`, by the path of the ReLU."""
    paths = [str(node.target) for node in trace(network).nodes if node.op == "call_module"]
    paths = [path for path in paths if isinstance(network.get_submodule(path), nn.ReLU)]
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            converted = ann2snn.FXConverter(recipe).convert(network)
    except Exception as error:  # SpikingJelly raises errors of any type
        raise ValueError(
            f"{type(network).__name__}: SpikingJelly cannot convert this network ({error}); "
            "choose method=percentile or method=threshold_balancing"
        ) from error
    modules: dict[str, Any] = dict(converted.named_modules())
    neurons = []
    for node in converted.graph.nodes:
        if isinstance(modules.get(str(node.target)), neuron.BaseNode):
            before, after = modules[node.args[0].target], modules[next(iter(node.users)).target]
            neurons.append(SpikingJellyNeuron(modules[node.target], before.scale, after.scale))
    return dict(zip(paths, neurons, strict=True))  # both in the order of the forward pass
