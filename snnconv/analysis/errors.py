"""Error decomposition of a converted network: the parts of the error of each layer, and the accuracy lost by each kind of error."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from snnconv.analysis.counterpart import counterpart
from snnconv.analysis.ideal_networks import Clipped, clipped, evenly, instead
from snnconv.analysis.layer_errors import LayerErrors, Watch, watch
from snnconv.analysis.operations import OperationCounter
from snnconv.runtime import distributed
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.recording import recording
from snnconv.spiking.tasks import CLASSIFY, Task

PIXELS = 2**20  # number of pixels of images that are measured together, which limits the memory for activations


@dataclass(frozen=True)
class Decomposition:
    """Errors of all layers at every T, and the accuracies of the ANN, of intermediate networks, and of the SNN, on the same images.

    Each network adds one restriction: `clipped` is the ANN whose activations are limited to the range of the neurons; `even` emits
    integer numbers of spikes for evenly distributed currents; `snn` is the spiking network.  `limit` is `even` for T → ∞: clipped,
    but not quantized.  If thresholds depend on T, `clipped` and `limit` are those of the largest T, and `clipped_at` has all T.
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
        """Accuracy lost by each kind of error at T (negative: a gain); the sum is ANN − SNN."""
        even, clipped = self.even[timesteps], self.clipped_at.get(timesteps, self.clipped)
        return {
            "clipping": self.ann - clipped,
            "quantization": clipped - even,
            "unevenness": even - self.snn[timesteps],
        }

    def as_dict(self) -> dict[str, Any]:
        """For `result.json`."""
        return asdict(self)


@torch.no_grad()
def decompose(
    ann: nn.Module,
    snn: SpikingModel,
    batches: Iterable[tuple[Tensor, Tensor]],
    timesteps: Sequence[int],
    images: int = 500,
    counter: OperationCounter | None = None,
) -> Decomposition:
    """Errors of every layer of `snn`, converted from `ann`, at each T of `timesteps`, on the first `images` of `batches`.

    Supports every method in which each step receives the image, because f(x) is computed by the neuron itself.  By construction the
    means of the parts add up to the mean error, and their shares to the squared error.  `counter` counts operations in the same
    runs.  ValueError for a method in which only the
    first steps receive the image, without images, or if `snn` was not converted from `ann`.
    """
    if snn.timing.presented is not None:
        raise ValueError("in this method only the first steps receive the image, so there is no constant mean current; it has no "
                         "conversion error after it has converged")  # fmt: skip
    wanted, rights, measured = sorted(set(timesteps)), _Rights(snn.task), 0
    parts = snn.rounds(wanted)
    layers: list[LayerErrors] = []
    original, was_training = ann, ann.training
    ann = counterpart(ann, snn, batches).eval()
    try:
        for part in parts:
            snn.prepare(part[-1])
            neurons = snn.neurons()
            here = [watch(path, neuron, snn, part) for path, neuron in neurons.items()]
            even = {t: [evenly(neuron, snn, t) for neuron in neurons.values()] for t in part}
            limit = [Clipped(neuron, snn.latency.spike_levels) for neuron in neurons.values()]
            measured = 0
            most = snn.at_once(part[-1], next(ann.parameters()).device)
            with recording(snn, counter.start(part) if counter else None, stepwise=True):
                for x, labels in _small(batches, distributed.share_of(images), most):
                    measured += len(x)
                    rights.add("ann", logits := _ann_beside(ann, here, x), labels)
                    changed = not all(each.is_clipped(neurons[each.path]) for each in here)
                    rights.add(f"clipped {part[-1]}", clipped(ann, snn, x) if changed else logits, labels)
                    with _hooked(snn, here):
                        means = snn.read(snn(x, part[-1]))
                    for t in part:
                        rights.add(f"snn {t}", means[t - 1], labels)
                        rights.add(f"even {t}", instead(snn, even[t], x), labels)
                    rights.add(f"limit {part[-1]}", instead(snn, limit, x), labels)
            if not measured:
                raise ValueError("errors are measured on images, but there are none")
            if counter:
                counter.images = measured
                counter.finish()
            layers += [each.errors(t) for t in part for each in here]
    finally:
        original.train(was_training)
    limited = {part[-1]: rights.share(f"clipped {part[-1]}") for part in parts}
    return Decomposition(
        images=rights.images,
        layers=layers,
        ann=rights.share("ann"),
        clipped=limited[wanted[-1]],
        limit=rights.share(f"limit {wanted[-1]}"),
        even={t: rights.share(f"even {t}") for t in wanted},
        snn={t: rights.share(f"snn {t}") for t in wanted},
        clipped_at={t: limited.get(t, limited[wanted[-1]]) for t in wanted},
    )


class _Rights:
    """Scores (right predictions) and images, by name."""

    def __init__(self, task: Task = CLASSIFY) -> None:
        self.task = task
        self.counts: dict[str, Tensor] = {}
        self.images = 0  # over all processes, once a share was asked for

    def add(self, name: str, logits: Tensor, labels: Tensor) -> None:
        right = self.task.right(logits, labels).sum()
        self.counts[name] = self.counts.get(name, 0) + torch.stack([right, torch.full_like(right, len(labels))])

    def share(self, name: str) -> float:
        right, images = distributed.sum_over_ranks(self.counts[name]).tolist()
        self.images = int(images)
        return right / images


def _small(batches: Iterable[tuple[Tensor, Tensor]], left: int, most: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The first `left` images of `batches`, in parts of at most `most` images, fewer if they are large."""
    for x, labels in batches:
        x, labels = x[:left], labels[:left]
        left -= len(x)
        together = max(1, min(most, PIXELS // max(1, x[:1].numel())))
        yield from zip(x.split(together), labels.split(together), strict=True)
        if not left:
            return


def _ann_beside(ann: nn.Module, watches: list[Watch], images: Tensor) -> Tensor:
    """Logits of the ANN; its currents and activations are passed to the `watches`."""
    currents: dict[str, Tensor] = {}

    def before(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor]) -> None:
            currents[path] = inputs[0].clone()  # a ReLU may work in place

        return hook

    def after(watch: Watch) -> Callable[..., None]:
        return lambda module, inputs, output: watch.start(currents.pop(watch.path), output.clone())

    with ExitStack() as stack:
        for watch in watches:
            site = ann.get_submodule(watch.path)
            stack.callback(site.register_forward_pre_hook(before(watch.path)).remove)
            stack.callback(site.register_forward_hook(after(watch)).remove)
        return ann(images)


@contextmanager
def _hooked(snn: SpikingModel, watches: list[Watch]) -> Iterator[None]:
    """Context in which the `watches` observe the neurons of `snn`."""
    with ExitStack() as stack:
        for neuron, watch in zip(snn.neurons().values(), watches, strict=True):
            stack.callback(neuron.register_forward_hook(watch).remove)
        yield
