"""Why a converted network is less accurate: the error of each layer in parts, and the accuracy that each kind of error costs."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from spikingjelly.activation_based import functional as sj
from torch import Tensor, nn

from snnconv.functional import ConversionErrors, conversion_errors, spike_count
from snnconv.neurons.base import per_channel
from snnconv.neurons.integrate_fire import IntegrateFire
from snnconv.runtime import distributed
from snnconv.spiking import TOGETHER, OverTime, SpikingModel, running_mean
from snnconv.surgery import replace_modules

PARTS = ConversionErrors._fields
OFFSETS = (-2, -1, 0, 1, 2)
PIXELS = 2**20  # of images that are measured at once: every layer keeps some of its activations for them


@dataclass(frozen=True)
class LayerErrors:
    """ANN − SNN of one layer after T steps, over images and neurons; `functional.conversion_errors` says what the parts are."""

    path: str
    timesteps: int
    mean: dict[str, float]  # of each part, in the unit of the activation; they add up to "total"
    share: dict[
        str, float
    ]  # mean of part · total, relative to the mean a²; they add up to "total", the relative squared error
    size: dict[str, float]  # mean square of each part by itself, relative to the mean a²
    offset_spikes: dict[int, float]  # share of outputs with so many spikes too few (> 0) or too many; ±2 and beyond
    residual: float | None  # share of outputs with v(T) < 0 though some spike, or v(T) ≥ θ though not all, was emitted
    saturated: float  # share of outputs at the most that a neuron can put out
    silent: float  # share of neurons that no image makes fire
    firing_rate: float  # mean output in units of θ


@dataclass(frozen=True)
class Decomposition:
    """All layers at every T, and the accuracies between the ANN's and the SNN's, on the same images.

    Each network of the ladder lacks one thing more: `clipped` is the ANN limited to what neurons can put out; `even` emits whole
    spikes for currents that come evenly; `snn` is the real one.  `limit` is `even` for T → ∞: clipped, but in no way quantized.
    Where thresholds depend on T, `clipped` and `limit` are those of the largest T, and `clipped_at` has every one.
    """

    images: int
    layers: list[LayerErrors]
    ann: float
    clipped: float
    limit: float
    even: dict[int, float]
    snn: dict[int, float]
    clipped_at: dict[int, float] = field(default_factory=dict)

    def at(self, timesteps: int) -> list[LayerErrors]:
        """The layers after T steps, in the order of computation."""
        return [layer for layer in self.layers if layer.timesteps == timesteps]

    def drops(self, timesteps: int) -> dict[str, float]:
        """Accuracy that each kind of error costs at T (negative: gains); together ANN − SNN."""
        even, clipped = self.even[timesteps], self.clipped_at.get(timesteps, self.clipped)
        return {
            "clipping": self.ann - clipped,
            "quantization": clipped - even,
            "unevenness": even - self.snn[timesteps],
        }

    def as_dict(self) -> dict[str, Any]:
        """For `result.json`."""
        return asdict(self)


class Clipped(nn.Module):
    """What `neuron` could put out if it did not have to spike: 0 … `most` amplitudes."""

    def __init__(self, neuron: Any, most: int) -> None:
        super().__init__()
        self.neuron, self.most = neuron, most

    def forward(self, current: Float[Tensor, "T N *shape"]) -> Float[Tensor, "T N *shape"]:
        """The clipped current, in the unit of the neuron's output."""
        ceiling = _ceiling(self.neuron, current, self.most, axis=2)
        clipped = torch.minimum(current.clamp_min(0), torch.as_tensor(ceiling).to(current))
        return clipped / _unit(self.neuron, current, axis=2)


class Even(nn.Module):
    """What a neuron of `model` puts out on average over T counted steps if its current is the same in all of them."""

    def __init__(self, neuron: nn.Module, model: SpikingModel, timesteps: int) -> None:
        super().__init__()
        self.neuron, self.timesteps, self.discard = copy.deepcopy(neuron), timesteps, model.discard
        self.steps, self.together = model.steps(timesteps), model.lookahead != 1
        sj.set_step_mode(self.neuron, "m" if self.together else "s")

    def forward(self, current: Float[Tensor, "1 N *shape"]) -> Float[Tensor, "1 N *shape"]:
        """The mean output, from the initial state."""
        sj.reset_net(self.neuron)
        mean = self._mean(current).to(current.dtype)
        sj.reset_net(self.neuron)  # its state is as large as the layer
        return mean

    def _mean(self, current: Tensor) -> Tensor:
        if self.together:
            every = self.neuron(current.expand(self.steps, *current.shape[1:]))
            return every[self.discard : self.discard + self.timesteps].mean(0, keepdim=True)
        for _ in range(self.discard):
            self.neuron(current)
        total = torch.zeros_like(current, dtype=torch.promote_types(current.dtype, torch.float32))  # no sums in bf16
        for _ in range(self.timesteps):
            total += self.neuron(current)
        return total / self.timesteps


class Counted(nn.Module):
    """The same for a plain integrate-and-fire neuron, in closed form (`functional.spike_count`): equal but for rounding."""

    def __init__(self, neuron: Any, timesteps: int) -> None:
        super().__init__()
        self.neuron, self.timesteps = neuron, timesteps

    def forward(self, current: Float[Tensor, "1 N *shape"]) -> Float[Tensor, "1 N *shape"]:
        """The mean output."""
        neuron = self.neuron
        theta, amplitude = (
            per_channel(torch.as_tensor(x, dtype=current.dtype, device=current.device), current, axis=2)
            for x in (neuron.threshold, neuron.amplitude)
        )
        return amplitude * spike_count(current, theta, self.timesteps, neuron.v_initial) / self.timesteps


def _evenly(neuron: Any, model: SpikingModel, timesteps: int) -> nn.Module:
    """What stands in the place of `neuron` in the network of even currents."""
    plain = type(neuron) is IntegrateFire and not isinstance(neuron.v_initial, Tensor)
    if plain and model.discard == 0 and model.lookahead == 1 and model.precision != "bf16":
        return Counted(neuron, timesteps)
    return Even(neuron, model, timesteps)


def _unit(neuron: Any, like: Tensor, axis: int) -> Tensor | float:
    """What the output has to be multiplied by, where a factor was moved into the next weights (`folding.fold_amplitudes`)."""
    if not hasattr(neuron, "amplitude"):
        return 1.0
    theta, amplitude = (torch.as_tensor(x, dtype=torch.float64) for x in (neuron.threshold, neuron.amplitude))
    return per_channel((theta / amplitude).to(like), like, axis)


def _ceiling(neuron: Any, like: Tensor, most: int, axis: int) -> Tensor:
    """The most that a neuron can put out in a step, shaped to meet the channels of `like`."""
    return most * per_channel(torch.as_tensor(neuron.threshold).to(like), like, axis)


class _Watch:
    """Follows a neuron through a run, beside a twin that receives the ANN's current in every step, and adds up its errors."""

    def __init__(self, path: str, neuron: nn.Module, model: SpikingModel, wanted: Sequence[int]) -> None:
        sj.reset_net(neuron)  # whose state need not be copied
        self.path, self.wanted, self.discard, self.most = path, wanted, model.discard, model.latency.spike_levels
        self.twin = copy.deepcopy(neuron)
        self.even = {t: Even(neuron, model, t) for t in wanted}
        self.sums: dict[int, Tensor] = {}
        self.fired: dict[int, Tensor] = {}

    def start(self, z: Tensor, activation: Tensor) -> None:
        """A new batch: the ANN's current and activation."""
        sj.reset_net(self.twin)
        self.z, self.activation, self.done = z, activation, -self.discard
        self.current, self.output, self.meant = torch.zeros_like(z), torch.zeros_like(z), torch.zeros_like(z)

    def __call__(self, neuron: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Some steps of the neuron (a forward hook)."""
        (current,) = inputs
        sj.set_step_mode(self.twin, neuron.node.step_mode if hasattr(neuron, "node") else "m")
        meant = self.twin(self.z.expand(len(current), *self.z.shape))
        for step, (x, y, m) in enumerate(zip(current, output, meant, strict=True), 1):
            self.done += 1
            if self.done >= 1:
                self.current += x
                self.output += y
                self.meant += m
            if self.done in self.wanted:
                self.measure(neuron, last=step == len(current))

    def measure(self, neuron: Any, last: bool) -> None:
        """Add this batch at T = the steps so far."""
        t, a, unit = self.done, self.activation, _unit(neuron, self.z, axis=1)
        ceiling = _ceiling(neuron, a, self.most, axis=1)
        full = ceiling * (1 - 1e-4)
        output, meant = unit * self.output / t, unit * self.meant / t
        even = unit * self.even[t]((self.current / t).unsqueeze(0))[0]
        errors = conversion_errors(a, ceiling, meant, even, output)
        total, spikes = a - output, (errors.unevenness * (t * self.most) / ceiling).round().clamp(-2, 2)
        v, threshold = _potential(neuron) if last else (None, None)
        owing = a.new_tensor(torch.nan) if v is None else _owing(v, threshold, output > 0, output < full).sum()
        parts = (*errors, total)
        figures = [
            a.new_tensor(a.numel()), a.square().sum(), owing, (output >= full).sum(),
            (output / ceiling).sum() * self.most, *(p.sum() for p in parts), *((p * total).sum() for p in parts),
            *(p.square().sum() for p in parts), *((spikes == k).sum() for k in OFFSETS),
        ]  # fmt: skip
        self.sums[t] = self.sums.get(t, 0) + torch.stack([f.double() for f in figures])
        self.fired[t] = self.fired.get(t, False) | (output != 0).any(0)

    def errors(self, t: int) -> LayerErrors:
        """Of all batches so far, over all processes."""
        fired = distributed.sum_over_ranks(self.fired[t].long()) > 0
        count, power, owing, saturated, rate, *rest = distributed.sum_over_ranks(self.sums[t]).tolist()
        names, n = (*PARTS, "total"), len(PARTS) + 1
        relative = [value / power if power else 0.0 for value in rest[n : 3 * n]]
        return LayerErrors(
            path=self.path,
            timesteps=t,
            mean=dict(zip(names, (value / count for value in rest[:n]), strict=True)),
            share=dict(zip(names, relative[:n], strict=True)),
            size=dict(zip(names, relative[n:], strict=True)),
            offset_spikes=dict(zip(OFFSETS, (value / count for value in rest[3 * n :]), strict=True)),
            residual=None if owing != owing else owing / count,
            saturated=saturated / count,
            silent=1 - float(fired.double().mean()),
            firing_rate=rate / count,
        )


def _owing(v: Tensor, threshold: Any, some: Tensor, not_all: Tensor) -> Tensor:
    """Where an even current would have left v in [0, θ): not below while it has fired, not above while it could fire more."""
    return ((v < 0) & some) | ((v >= threshold) & not_all)


def _potential(neuron: Any) -> tuple[Tensor | None, Any]:
    """The potential of a neuron's node, and the threshold in the node's own unit."""
    node = getattr(neuron, "node", None)
    v = getattr(node, "v", None)
    if not isinstance(v, Tensor):
        return None, None
    return v, node.threshold(v) if hasattr(node, "theta") else node.v_threshold  # type: ignore[union-attr]


@torch.no_grad()
def decompose(
    ann: nn.Module,
    snn: SpikingModel,
    batches: Iterable[tuple[Tensor, Tensor]],
    timesteps: Sequence[int],
    images: int = 500,
) -> Decomposition:
    """Errors of every layer of `snn`, converted from `ann`, at each T of `timesteps`, on the first `images` of `batches`.

    Works for every method whose image is there in each step, since f(x) is asked of the neuron itself.  The means of the parts
    add up to the mean error, and so do their shares of the squared error, by construction.  ValueError for a method that
    shows the image in its first steps only, or without images.
    """
    if snn.presented is not None:
        raise ValueError("this method shows the image in its first steps only, so no mean current stands for it; it has no "
                         "conversion error once it has settled")  # fmt: skip
    wanted, rights, seen = sorted(set(timesteps)), _Rights(), 0
    parts = [wanted] if snn.anytime else [[t] for t in wanted]
    layers: list[LayerErrors] = []
    was_training, schedule = ann.training, snn.schedule
    ann.eval()
    snn.schedule = "step"
    try:
        for part in parts:
            snn.prepare(part[-1])
            here = [_Watch(path, neuron, snn, part) for path, neuron in snn.neurons().items()]
            seen = 0
            for x, labels in _small(batches, distributed.share_of(images), TOGETHER // snn.steps(part[-1])):
                seen += len(x)
                rights.add("ann", _ann_beside(ann, here, x), labels)
                with _hooked(snn, here):
                    means = running_mean(snn(x, part[-1]), snn.latency.readout_from)
                for t in part:
                    rights.add(f"snn {t}", means[t - 1], labels)
                    rights.add(f"even {t}", _instead(snn, lambda neuron: _evenly(neuron, snn, t), x), labels)  # noqa: B023
                rights.add(f"clipped {part[-1]}", _clipped(ann, snn, x), labels)
                rights.add(
                    f"limit {part[-1]}", _instead(snn, lambda n: Clipped(n, snn.latency.spike_levels), x), labels
                )
            if not seen:
                raise ValueError("errors are measured on images, and there are none")
            layers += [watch.errors(t) for t in part for watch in here]
    finally:
        ann.train(was_training)
        snn.schedule = schedule
    clipped = {part[-1]: rights.share(f"clipped {part[-1]}") for part in parts}
    return Decomposition(
        images=rights.images,
        layers=layers,
        ann=rights.share("ann"),
        clipped=clipped[wanted[-1]],
        limit=rights.share(f"limit {wanted[-1]}"),
        even={t: rights.share(f"even {t}") for t in wanted},
        snn={t: rights.share(f"snn {t}") for t in wanted},
        clipped_at={t: clipped.get(t, clipped[wanted[-1]]) for t in wanted},
    )


class _Rights:
    """Right predictions and images, by name."""

    def __init__(self) -> None:
        self.counts: dict[str, Tensor] = {}
        self.images = 0  # over all processes, once a share was asked for

    def add(self, name: str, logits: Tensor, labels: Tensor) -> None:
        right = (logits.argmax(-1) == labels).sum()
        self.counts[name] = self.counts.get(name, 0) + torch.stack([right, torch.full_like(right, len(labels))])

    def share(self, name: str) -> float:
        right, self.images = distributed.sum_over_ranks(self.counts[name]).tolist()
        return right / self.images


def _small(batches: Iterable[tuple[Tensor, Tensor]], left: int, most: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The first `left` images of `batches`, at most `most` together, and fewer if they are large."""
    for x, labels in batches:
        x, labels = x[:left], labels[:left]
        left -= len(x)
        together = max(1, min(most, PIXELS // max(1, x[:1].numel())))
        yield from zip(x.split(together), labels.split(together), strict=True)
        if not left:
            return


def _ann_beside(ann: nn.Module, watches: list[_Watch], images: Tensor) -> Tensor:
    """Logits of the ANN, whose currents and activations the `watches` are told."""
    currents: dict[str, Tensor] = {}

    def before(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor]) -> None:
            currents[path] = inputs[0].clone()  # a ReLU may work in place

        return hook

    def after(watch: _Watch) -> Callable[..., None]:
        return lambda module, inputs, output: watch.start(currents.pop(watch.path), output.clone())

    with ExitStack() as stack:
        for watch in watches:
            site = ann.get_submodule(watch.path)
            stack.callback(site.register_forward_pre_hook(before(watch.path)).remove)
            stack.callback(site.register_forward_hook(after(watch)).remove)
        return ann(images)


def _clipped(ann: nn.Module, snn: SpikingModel, images: Tensor) -> Tensor:
    """Logits of the ANN whose activations are limited to what the neurons in their places can put out."""

    def limited(neuron: nn.Module) -> Callable[..., Tensor]:
        return lambda module, inputs, output: output.minimum(_ceiling(neuron, output, snn.latency.spike_levels, axis=1))

    with ExitStack() as stack:
        for path, neuron in snn.neurons().items():
            stack.callback(ann.get_submodule(path).register_forward_hook(limited(neuron)).remove)
        return ann(images)


@contextmanager
def _hooked(snn: SpikingModel, watches: list[_Watch]) -> Iterator[None]:
    """While open, the `watches` follow the neurons of `snn`."""
    handles = [
        neuron.register_forward_hook(watch) for neuron, watch in zip(snn.neurons().values(), watches, strict=True)
    ]
    snn._watched = True
    try:
        yield
    finally:
        snn._watched = False
        for handle in handles:
            handle.remove()


def _instead(snn: SpikingModel, make: Callable[[Any], nn.Module], images: Tensor) -> Tensor:
    """Logits of the spiking network with `make(neuron)`, which takes and gives means, in the place of each neuron."""
    network = replace_modules(snn.network, OverTime, lambda clock: OverTime(make(clock.neuron)))
    like = next(network.parameters())
    return network(images.to(like.dtype))
