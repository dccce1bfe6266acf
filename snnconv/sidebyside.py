"""A network and its spiking copy on the same images, layer by layer: what methods look at that calibrate one against the other."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from spikingjelly.activation_based import functional
from torch import Tensor, fx, nn

from snnconv.data.splits import first_images
from snnconv.folding import fold_batchnorm
from snnconv.graph import trace
from snnconv.spiking import OverTime


@dataclass
class Segment:
    """What lies between one neuron (or activation), at `path`, and those before it.

    `layer` computes the current of `path` from the outputs of `sources` (paths; "" is the image), and shares the weights of the
    network it is a part of.  It is linear, so the mean of its outputs over time is its output for the mean of its inputs.
    """

    path: str
    sources: tuple[str, ...]
    layer: fx.GraphModule


def segments(network: nn.Module, paths: Iterable[str]) -> list[Segment]:
    """The parts of `network` that lead to the modules at `paths`, in the order in which these are computed."""
    paths = set(paths)
    graph = trace(network, tuple({type(network.get_submodule(path)) for path in paths}))
    sites = [node for node in graph.nodes if node.op == "call_module" and node.target in paths]
    ends = {node: str(node.target) for node in sites} | {node: "" for node in graph.nodes if node.op == "placeholder"}
    return [_segment(network, graph, site, ends) for site in sites]


def _segment(network: nn.Module, graph: fx.Graph, site: fx.Node, ends: dict[fx.Node, str]) -> Segment:
    (start,) = site.all_input_nodes
    inside, waiting = set(), [start]
    while waiting:
        node = waiting.pop()
        inside.add(node)
        waiting += [] if node in ends else node.all_input_nodes
    part, known, sources = fx.Graph(), {}, []
    for node in graph.nodes:
        if node in inside and node in ends:
            known[node] = part.placeholder(node.name)
            sources.append(ends[node])
    for node in graph.nodes:
        if node in inside and node not in ends:
            known[node] = part.node_copy(node, lambda source: known[source])
    part.output(known[start])
    return Segment(str(site.target), tuple(sources), fx.GraphModule(network, part))


@dataclass
class Site:
    """One activation of the ANN beside the neuron that stands for it, on the same images.

    `clock.neuron` may be replaced, and the weights of `layer` changed: what follows sees it.
    """

    path: str
    activation: Float[Tensor, "N *shape"]  # what the ANN puts out
    clock: OverTime  # holds the neuron
    layer: fx.GraphModule  # computes the neuron's current from `inputs`; its weights are those of the spiking network
    inputs: tuple[
        Tensor, ...
    ]  # each [T·N, …]: spikes of earlier neurons and, if there are such, images; or images alone, [N, …]
    timesteps: int

    @torch.no_grad()
    def current(self) -> Float[Tensor, "T N *shape"]:
        """What the neuron receives at every step."""
        current = self.layer(*self.inputs)
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
        """What the neuron, as it stands, emits at every step, from its initial state."""
        functional.reset_net(self.clock.neuron)
        output = self.clock.neuron(self.current())
        functional.reset_net(self.clock.neuron)
        return output


def side_by_side(
    ann: nn.Module, network: nn.Module, images: Float[Tensor, "N *image"], timesteps: int
) -> Iterator[Site]:
    """Every site of `network`, a spiking copy of `ann`, in the order of computation, for T = `timesteps` steps of `images`.

    The ANN runs as in evaluation, and is not touched.  What a site emits is computed when the next one is asked for, so each
    sees its predecessors as they were calibrated.  Only outputs that a later site reads are kept.
    """
    clocks = {path: module for path, module in network.named_modules() if isinstance(module, OverTime)}
    like = next(network.parameters())
    images, ann = images.to(like.device, like.dtype), fold_batchnorm(ann).to(like.device)
    plain, spiking = {"": images}, {"": images}
    pairs = list(zip(segments(ann, clocks), segments(network, clocks), strict=True))
    for index, (theirs, ours) in enumerate(pairs):
        seen = [plain[source] for source in theirs.sources]
        plain[ours.path] = activation = _activation(ann.get_submodule(ours.path), theirs.layer, seen)
        inputs = tuple(_over_time(spiking, source, ours.sources, timesteps) for source in ours.sources)
        later = {source for _, part in pairs[index + 1 :] for source in part.sources}
        plain, spiking = ({path: x for path, x in known.items() if path in later} for known in (plain, spiking))
        yield (site := Site(ours.path, activation, clocks[ours.path], ours.layer, inputs, timesteps))
        if ours.path in later:
            spiking[ours.path] = site.output().flatten(0, 1)
        del seen, activation, inputs, site


@torch.no_grad()
def _activation(activation: nn.Module, layer: nn.Module, inputs: list[Tensor]) -> Tensor:
    return activation(layer(*inputs).clone())  # a ReLU may work in place


def _over_time(known: dict[str, Tensor], source: str, beside: tuple[str, ...], timesteps: int) -> Tensor:
    """What `source` put out; images once for every step if spikes come `beside` them."""
    images_meet_spikes = source == "" and set(beside) != {""}
    x = known[source]
    return x.repeat(timesteps, *[1] * (x.dim() - 1)) if images_meet_spikes else x


def calibration_images(batches: Iterable[tuple[Tensor, Any]], count: int) -> Tensor:
    """The first `count` images of `batches`, or all if there are fewer; ValueError if there is none."""
    if type(count) is not int or count < 1:
        raise ValueError(f"method.images={count}: a whole number, at least 1 calibration image")
    if not (kept := first_images(batches, count)):
        raise ValueError("this method calibrates on images, and there are none; set data.calibration to 100 or more")
    return torch.cat(kept)


def channel_mean(x: Float[Tensor, "N C *space"]) -> Float[Tensor, " C"]:
    """Mean over images and space."""
    return x.transpose(0, 1).flatten(1).mean(1)
