"""An ANN and its spiking copy on the same images, layer by layer, for methods that calibrate the copy against the ANN."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from spikingjelly.activation_based import functional
from torch import Tensor, fx, nn

from snnconv.nn.graph.folding import fold_batchnorm
from snnconv.nn.graph.split import segments
from snnconv.spiking.network import OverTime
from snnconv.spiking.operators.base import set_timesteps


@dataclass
class Site:
    """One activation of the ANN and the neuron that replaces it, on the same images.

    `clock.neuron` may be replaced and the weights of `layer` may be changed; later sites use the changed neuron and weights.
    """

    path: str
    activation: Float[Tensor, "N *shape"]  # output of the activation in the ANN
    clock: OverTime  # holds the neuron
    layer: fx.GraphModule  # the neuron's mean current from mean inputs; its weights are those of the spiking network
    inputs: tuple[
        Tensor, ...
    ]  # spikes of earlier neurons (and images, if the layer reads both), each [T·N, …]; or only images, [N, …]
    timesteps: int

    @torch.no_grad()
    def current(self) -> Float[Tensor, "T N *shape"]:
        """Input current of the neuron at every step."""
        set_timesteps(self.layer, self.timesteps)
        current = self.layer(*self.inputs)
        set_timesteps(self.layer, None)
        if len(current) == len(self.activation):
            return current.expand(self.timesteps, *current.shape)
        return current.unflatten(0, (self.timesteps, -1))

    @torch.no_grad()
    def mean_inputs(self) -> list[Float[Tensor, "N *shape"]]:
        """`inputs`, averaged over time."""
        images = len(self.activation)
        return [x if len(x) == images else x.unflatten(0, (self.timesteps, -1)).mean(0) for x in self.inputs]

    @torch.no_grad()
    def output(self) -> Float[Tensor, "T N *shape"]:
        """Output of the present neuron at every step, from its initial state."""
        functional.reset_net(self.clock.neuron)
        output = self.clock.neuron(self.current())
        functional.reset_net(self.clock.neuron)
        return output


def side_by_side(
    ann: nn.Module, network: nn.Module, images: Float[Tensor, "N *image"], timesteps: int
) -> Iterator[Site]:
    """Yield every site of `network`, a spiking copy of `ann`, in order of computation, for T = `timesteps` steps of `images`.

    The ANN runs in eval mode and is not changed.  The output of a site is computed when the next site is requested, so each site
    receives the outputs of calibrated predecessors.  Only outputs that a later site reads are stored.
    """
    clocks = {path: module for path, module in network.named_modules() if isinstance(module, OverTime)}
    like = next(network.parameters())
    images, ann = images.to(like.device, like.dtype), fold_batchnorm(ann).to(like.device)
    plain, spiking = {"": images}, {"": images}
    set_timesteps(network, None)
    pairs = list(zip(segments(ann, clocks), segments(network, clocks), strict=True))
    for index, (theirs, ours) in enumerate(pairs):
        ann_inputs = [plain[source] for source in theirs.sources]
        plain[ours.path] = activation = _activation(ann.get_submodule(ours.path), theirs.layer, ann_inputs)
        inputs = tuple(_over_time(spiking, source, ours.sources, timesteps) for source in ours.sources)
        later = {source for _, part in pairs[index + 1 :] for source in part.sources}
        plain, spiking = ({path: x for path, x in values.items() if path in later} for values in (plain, spiking))
        yield (site := Site(ours.path, activation, clocks[ours.path], ours.layer, inputs, timesteps))
        if ours.path in later:
            spiking[ours.path] = site.output().flatten(0, 1)
        del ann_inputs, activation, inputs, site


@torch.no_grad()
def _activation(activation: nn.Module, layer: nn.Module, inputs: list[Tensor]) -> Tensor:
    return activation(layer(*inputs).clone())  # a ReLU may work in place


def _over_time(outputs: dict[str, Tensor], source: str, beside: tuple[str, ...], timesteps: int) -> Tensor:
    """Output of `source`; images are repeated for every step if other inputs of the layer (`beside`) are spikes."""
    images_meet_spikes = source == "" and set(beside) != {""}
    x = outputs[source]
    return x.repeat(timesteps, *[1] * (x.dim() - 1)) if images_meet_spikes else x


def channel_mean(x: Float[Tensor, "N C *space"]) -> Float[Tensor, " C"]:
    """Mean over images and space."""
    return x.transpose(0, 1).flatten(1).mean(1)
