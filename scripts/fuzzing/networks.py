"""Random small networks, and laws that hold for each network unless ValueError refuses it."""

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import snnconv

LEVELS, SHORT, LONG = 4, 128, 1024  # levels of QCFS; timesteps
SLACK = 0.02  # relative error that is small enough after LONG steps
CONVOLUTIONS = {0: nn.Linear, 1: nn.Conv1d, 2: nn.Conv2d}
NORMS = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d}
Step = Callable[[Any, dict[str, Tensor], Tensor], Any]  # (network, stored values, h) → h


def _clip(x: Tensor) -> Tensor:
    return torch.where(x < 0, torch.zeros_like(x), torch.where(x > 3, torch.full_like(x, 3), x))


RELUS: tuple[Callable[[], Any], ...] = (
    nn.ReLU, lambda: nn.ReLU(inplace=True), nn.ReLU6, lambda: nn.Hardtanh(0, 2), lambda: F.relu, lambda: torch.relu,
    lambda: Tensor.relu_, lambda: lambda x: x.clamp(min=0), lambda: lambda x: x * (x > 0), lambda: lambda x: (x + x.abs()) / 2,
    lambda: _clip, lambda: lambda x: F.threshold(x, 0.0, 0.0), lambda: lambda x: torch.maximum(x, torch.zeros_like(x)),
)  # fmt: skip


class Fuzzed(nn.Module):
    """A network of random layers, written in random ways, from `seed`; `words` describes it."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.rank = self.random.choice((0, 1, 2, 2))
        self.channels = self.random.choice((1, 2, 4))
        self.spatial = [self.random.choice((4, 6))] * self.rank
        self.shape = (self.channels, *self.spatial)
        self.layers, self.named, self.steps = nn.ModuleList(), nn.ModuleDict(), list[Step]()
        self.words = [f"{self.shape}"]
        self.saved: list[tuple[str, int, list[int]]] = []  # name, channels, spatial sizes of stored values
        self.latest: list[Any] = []  # activations: functions, or indices in `layers`
        for _ in range(self.random.randint(1, 4)):
            self._block()
        self._head()

    def forward(self, x: Tensor, features: bool = False) -> Any:
        """Run the steps in order."""
        saved: dict[str, Tensor] = {}
        for step in self.steps:
            x = step(self, saved, x)
        return x

    def _add(self, word: str, step: Step) -> None:
        self.words.append(word)
        self.steps.append(step)

    def _layer(self, module: nn.Module) -> int:
        """Index of `module` in `layers`; steps use the index, so that they work in copies of the network."""
        self.layers.append(module)
        if self.random.random() < 0.2:  # a second name
            self.named[f"layer{len(self.layers)}"] = module
            self.words.append("two names")
        return len(self.layers) - 1

    def _block(self) -> None:
        self._weights()
        if self.random.random() < 0.4:
            norm: Any = NORMS[self.rank](self.channels)
            for tensor in (norm.running_mean, norm.bias.data):
                tensor.uniform_(-0.5, 0.5)
            norm.running_var.uniform_(0.3, 2)
            place = self._layer(norm)
            self._add("norm", lambda net, saved, h: net.layers[place](h))
        self._activation()
        for _ in range(self.random.randint(0, 2)):
            self.random.choice(
                (self._save, self._shortcut, self._shuffle, self._scale, self._pool, self._reuse, self._odd)
            )()

    def _weights(self) -> None:
        groups = self.channels if self.rank and self.random.random() < 0.2 else 1
        out = self.random.choice((1, 2)) * groups if groups > 1 else self.random.choice((2, 4, 6))
        bias = self.random.random() < 0.7
        kind: Any = CONVOLUTIONS[self.rank]
        layer = kind(self.channels, out, bias=bias) if not self.rank else kind(
            self.channels, out, self.random.choice((1, 3)), padding="same", groups=groups, bias=bias)  # fmt: skip
        same = [m for m in self.layers if type(m) is kind and m.weight.shape == layer.weight.shape]
        if same and self.random.random() < 0.5:
            layer.weight = same[0].weight
            self.words.append("tied")
        place = self._layer(layer)
        as_function = self.rank == 0 and self.random.random() < 0.3
        self._add(f"{kind.__name__} {out}", (lambda net, saved, h: F.linear(h, net.layers[place].weight, net.layers[place].bias))
                  if as_function else lambda net, saved, h: net.layers[place](h))  # fmt: skip
        self.channels = out

    def _activation(self) -> None:
        if not self.latest or self.random.random() < 0.7:
            chosen = self.random.choice(RELUS)()
            self.latest.append(self._layer(chosen) if isinstance(chosen, nn.Module) else chosen)
        relu = self.latest[-1]
        word = type(self.layers[relu]).__name__ if isinstance(relu, int) else getattr(relu, "__name__", "relu")
        self._add(word, lambda net, saved, h: (net.layers[relu] if isinstance(relu, int) else relu)(h))

    def _save(self) -> None:
        name = f"v{len(self.saved)}"
        self.saved.append((name, self.channels, [*self.spatial]))
        self._add(f"keep {name}", lambda net, saved, h: saved.setdefault(name, h))

    def _shortcut(self) -> None:
        fitting = [(name, channels) for name, channels, spatial in self.saved if spatial == self.spatial]
        if not fitting:
            return self._save()
        name, channels = self.random.choice(fitting)
        if channels == self.channels and self.random.random() < 0.7:
            addition = self.random.choice(
                (lambda a, b: a + b, torch.add, lambda a, b: a - 0.5 * b, lambda a, b: torch.stack([a, b]).sum(0))
            )
            return self._add(f"add {name}", lambda net, saved, h: addition(h, saved[name]))
        self.channels += channels
        return self._add(f"cat {name}", lambda net, saved, h: torch.cat([h, saved[name]], 1))

    def _shuffle(self) -> None:
        choices: list[Step] = [
            lambda net, saved, h: h.flip(1), lambda net, saved, h: torch.cat(h.chunk(2, 1)[::-1], 1),
            lambda net, saved, h: h.roll(1, 1),
            lambda net, saved, h: h + h.sum(1, keepdim=True) / 8, lambda net, saved, h: h[:, torch.arange(h.shape[1] - 1, -1, -1)],
        ]  # fmt: skip
        if self.rank == 2:
            choices += [
                lambda net, saved, h: h.transpose(2, 3),
                lambda net, saved, h: h.permute(0, 1, 3, 2).contiguous(),
            ]
        number = self.random.randrange(len(choices))
        self._add(f"shuffle {number}", choices[number])

    def _scale(self) -> None:
        gain = nn.Parameter(torch.rand(self.channels) + 0.5)
        name = f"gain{len(self.steps)}"
        self.register_parameter(name, gain)
        shape = (1, -1, *[1] * self.rank)
        choices: tuple[Step, ...] = (
            lambda net, saved, h: 0.5 * h, lambda net, saved, h: h.mul(2) / 3,
            lambda net, saved, h: h * getattr(net, name).view(shape),
            lambda net, saved, h: h - 0.1, lambda net, saved, h: -h,
        )  # fmt: skip
        number = self.random.randrange(len(choices))
        self._add(f"scale {number}", choices[number])

    def _pool(self) -> None:
        if not self.rank or min(self.spatial) < 2:
            return
        pools: dict[str, Any] = {
            "avg": (nn.AvgPool1d, nn.AvgPool2d)[self.rank - 1](2), "max": (nn.MaxPool1d, nn.MaxPool2d)[self.rank - 1](2),
            "F.avg": lambda h: (F.avg_pool1d, F.avg_pool2d)[h.dim() - 3](h, 2),
            "mean": lambda h: h.unflatten(-1, (-1, 2)).mean(-1),
        }  # fmt: skip
        name = self.random.choice([*pools])
        pool = pools[name]
        place = self._layer(pool) if isinstance(pool, nn.Module) else None
        if name == "mean":
            self.spatial[-1] //= 2
        else:
            self.spatial = [n // 2 for n in self.spatial]
        self._add(f"pool {name}", lambda net, saved, h: (pool if place is None else net.layers[place])(h))

    def _reuse(self) -> None:
        fitting = [place for place, layer in enumerate(self.layers) if self._keeps_shape(layer)]
        if not fitting:
            return
        place = self.random.choice(fitting)
        self._add("again", lambda net, saved, h: net.layers[place](h))
        self._activation()

    def _keeps_shape(self, layer: Any) -> bool:
        """Whether `layer` has as many input and output channels as there are channels now."""
        if type(layer) not in CONVOLUTIONS.values():
            return False
        outputs, inputs = len(layer.weight), layer.weight.shape[1] * getattr(layer, "groups", 1)
        return outputs == inputs == self.channels

    def _odd(self) -> None:
        """Add an unusual operation: one that must be refused, or one without effect on the outputs."""
        odd: dict[str, Step] = {
            "assert": self._checked, "size": lambda net, saved, h: h.reshape(h.size(0), *h.shape[1:]),
            "dropout": lambda net, saved, h: F.dropout(h, 0.5),
            "eval dropout": lambda net, saved, h: F.dropout(h, 0.5, net.training),
            "batch": lambda net, saved, h: h - h.mean(0), "branch": lambda net, saved, h: h if h.sum() > -1e9 else -h,
            "noise": lambda net, saved, h: h + torch.rand_like(h), "in place": lambda net, saved, h: h.mul_(0.5),
            "dim": lambda net, saved, h: h if h.dim() > 1 else h.unsqueeze(0), "detach": lambda net, saved, h: h.detach().clone(),
        }  # fmt: skip
        name = self.random.choice([*odd])
        self._add(name, odd[name])

    @staticmethod
    def _checked(net: Any, saved: dict[str, Tensor], h: Tensor) -> Tensor:
        assert h.shape[1] > 0
        return h

    def _head(self) -> None:
        ways = ["flatten", "view", *(["mean"] if self.rank else [])]
        way, size = self.random.choice(ways), self.channels
        if way == "mean":
            self._add("mean", lambda net, saved, h: h.mean([*range(2, h.dim())]))
        else:
            for n in self.spatial:
                size *= n
            self._add(way, lambda net, saved, h: h.flatten(1) if way == "flatten" else h.reshape(len(h), -1))
        head = nn.Linear(size, 3)
        place = self._layer(head)
        kind = self.random.random()
        end: Step = (
            (lambda net, saved, h: (net.layers[place](h), h))
            if kind < 0.03
            else lambda net, saved, h: net.layers[place](h)
        )
        self._add("tuple" if kind < 0.03 else "head", end)


def finding(seed: int) -> str | None:
    """The fault of the network of `seed`: a violated law, or an error of another class than ValueError; None without fault."""
    torch.manual_seed(seed)
    network = Fuzzed(seed).double().eval()
    x = torch.rand(4, *network.shape, dtype=torch.float64) * 2 - 0.5
    try:
        return _broken(network, x)
    except Exception as error:  # an error of any class is a fault
        return f"{type(error).__name__}: {error}"


def _broken(network: Fuzzed, x: Tensor) -> str | None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    obstacles = snnconv.check(network, x, method="max_norm", verbose=False).obstacles
    try:
        snn = snnconv.convert(network, x, method="max_norm", simulation={"schedule": "layer"})
    except ValueError as error:
        return None if obstacles else f"check accepts the network, but convert refuses it: {error}"
    if obstacles:
        return f"check refuses the network, but convert accepts it: {obstacles[0]}"
    with torch.no_grad():
        expected = network(x)
        scale = expected.abs().max()
        errors = [((snn(x, t).mean(0) - expected).abs().max() / scale).item() for t in (SHORT, LONG)]
    if not errors[1] <= max(SLACK, errors[0] / 3):
        return f"SNN and ANN differ by {errors[0]:.3g} after {SHORT} and {errors[1]:.3g} after {LONG} timesteps"
    if any(not torch.equal(tensor, network.state_dict()[name]) for name, tensor in before.items()):
        return "the network was changed"
    try:
        quantized = snnconv.prepare(network, LEVELS, calibration=x).eval()
        parallel = snnconv.convert(quantized, x, method="parallel")
    except ValueError as error:
        return None if "calibration gives" in str(error) else f"refused only with trained activations: {error}"
    with torch.no_grad():
        expected = quantized(x)
        difference = ((parallel(x, LEVELS).mean(0) - expected).abs().max() / expected.abs().max()).item()
    return None if difference < 1e-5 else f"parallel and QCFS differ by {difference:.3g}"
