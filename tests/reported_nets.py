"""Small networks in the likeness of public reports, for `model=custom` and for Python: see test_reported_cases."""

import torch
from torch import nn
from torch.nn import functional as F


class Small(nn.Module):
    """linear → ReLU → linear, of images of 16 pixels; the rest of this file changes one thing each."""

    def __init__(self, num_classes=3):
        super().__init__()
        self.a, self.act, self.b = nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, num_classes)

    def features(self, x):
        return self.act(self.a(x.flatten(1)))

    def forward(self, x):
        return self.b(self.features(x))


class TwoNames(nn.Module):
    """Every layer under two names."""

    def __init__(self, num_classes=3, both=True):
        super().__init__()
        norm = nn.BatchNorm2d(4)
        norm.running_mean.uniform_(-0.5, 0.5)
        norm.running_var.uniform_(0.05, 0.2)
        layers = [nn.Conv2d(1, 4, 3, padding=1), norm, nn.ReLU(), nn.Flatten(), nn.Linear(64, num_classes)]
        if both:
            self.blocks = nn.ModuleList(layers)
        self.chain = nn.Sequential(*layers)

    def forward(self, x):
        return self.chain(x)


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self, num_classes=3):
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(16, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, num_classes)
        self.c.weight = self.b.weight
        self.r1, self.r2, self.r3 = nn.ReLU(), nn.ReLU(), nn.ReLU()

    def forward(self, x):
        return self.d(self.r3(self.c(self.r2(self.b(self.r1(self.a(x.flatten(1))))))))


class Drops(Small):
    """Dropout that is always on, as a function of some kind."""

    def __init__(self, num_classes=3, function="dropout"):
        super().__init__(num_classes)
        self.function = getattr(F, function)

    def forward(self, x):
        return self.b(self.function(self.features(x), 0.5))


class Optional(Small):
    """An argument that nobody passes."""

    def forward(self, x, mask=None, features=False):
        h = self.features(x) if mask is None else self.features(x) * mask
        return h if features else self.b(h)


class Guard(Small):
    """A branch on the shape."""

    def forward(self, x):
        if x.dim() == 4:
            x = x.flatten(1)
        return super().forward(x)


class TwoInputs(Small):
    def forward(self, x, mask):
        return self.b(self.features(x) * mask)


class Outputs(Small):
    """The logits in something else than a tensor."""

    def __init__(self, num_classes=3, kind="tuple"):
        super().__init__(num_classes)
        self.kind = kind

    def forward(self, x):
        h = self.features(x)
        y = self.b(h)
        return {"tuple": (y, h), "dict": {"out": y}, "list": [y]}[self.kind]


class Constants(Small):
    """Normalization of the image and of a layer, by tensors of the network."""

    def __init__(self, num_classes=3, how="view"):
        super().__init__(num_classes)
        self.how = how
        self.gain = nn.Parameter(torch.rand(12) + 0.5)
        self.register_buffer("mean", torch.tensor([0.3]))

    def forward(self, x):
        if self.how == "view":
            x = x - self.mean.view(1, -1, 1, 1)
        if self.how == "None":
            x = x - self.mean[None, :, None, None]
        if self.how == "tensor":
            x = (x - torch.tensor([0.3])) / torch.tensor([0.7])
        h = self.features(x)
        return self.b(h * self.gain.view(1, -1) if self.how == "gain" else h)


RELUS = {
    "clamp": lambda x: x.clamp(min=0), "maximum": lambda x: torch.maximum(x, torch.zeros_like(x)), "mask": lambda x: x * (x > 0),
    "where": lambda x: torch.where(x > 0, x, torch.zeros_like(x)), "abs": lambda x: (x + x.abs()) / 2,
    "threshold": lambda x: F.threshold(x, 0.0, 0.0), "leaky": lambda x: F.leaky_relu(x, 0.0),
    "in place": lambda x: F.relu(x, inplace=True),
    "relu6": F.relu6, "clip": lambda x: x.clamp(0, 0.5), "hardtanh": lambda x: F.hardtanh(x, 0.0, 0.7),
    "gelu": F.gelu, "leaky 0.1": lambda x: F.leaky_relu(x, 0.1),
}  # fmt: skip


class Spelled(Small):
    """A ReLU in other words."""

    def __init__(self, num_classes=3, how="clamp"):
        super().__init__(num_classes)
        del self.act
        self.how = how

    def forward(self, x):
        return self.b(RELUS[self.how](self.a(x.flatten(1))))


class Capped(nn.ReLU):
    def forward(self, x):
        return x.clamp(0, 0.4)


class Shifted(nn.ReLU):
    def forward(self, x):
        return F.relu(x - 0.2)


def hooked():
    relu = nn.ReLU()
    relu.register_forward_hook(lambda module, inputs, output: output.clamp(max=0.4))
    return relu


class Subclass(Small):
    """Networks with a subclass of nn.ReLU, or a hook, that computes another function."""

    def __init__(self, num_classes=3, how="capped"):
        super().__init__(num_classes)
        self.act = {"capped": Capped, "shifted": Shifted, "hooked": hooked}[how]()


class Ends(Small):
    """log-probabilities instead of logits."""

    def forward(self, x):
        return F.log_softmax(super().forward(x), 1)


class Half(Small):
    def __init__(self, num_classes=3):
        super().__init__(num_classes)
        self.half()


class SequenceFirst(nn.Module):
    """The hidden layout is [length, batch, channels]."""

    def __init__(self, num_classes=3):
        super().__init__()
        self.up, self.a, self.mix, self.b, self.out = (
            nn.Linear(4, 8),
            nn.ReLU(),
            nn.Linear(8, 8),
            nn.ReLU(),
            nn.Linear(8, num_classes),
        )

    def forward(self, x):
        h = x.flatten(1, 2).permute(1, 0, 2)
        return self.out(self.b(self.mix(self.a(self.up(h)))).mean(0))


class Upsampled(nn.Module):
    """Bilinear upsampling of spikes."""

    def __init__(self, num_classes=3):
        super().__init__()
        self.c, self.act, self.up = (
            nn.Conv2d(1, 4, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.Upsample(scale_factor=2, mode="bilinear"),
        )
        self.c2, self.act2, self.out = nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Linear(4, num_classes)

    def forward(self, x):
        return self.out(self.act2(self.c2(self.up(self.act(self.c(x))))).mean((2, 3)))


class Recurrent(Small):
    def __init__(self, num_classes=3):
        super().__init__(num_classes)
        self.rnn = nn.LSTM(12, 12)

    def forward(self, x):
        return self.b(self.rnn(self.features(x).unsqueeze(0))[0][0])


class BatchStatistics(Small):
    def forward(self, x):
        h = self.features(x)
        return self.b(h - h.mean(0))


class DataDependent(Small):
    def forward(self, x):
        h = self.features(x)
        return self.b(h if h.sum() > 0 else -h)


class Complex(Small):
    def forward(self, x):
        return self.b(torch.fft.fft(self.features(x)).real)
