"""Networks that tests make up, and a training so short that every method can have one."""

from torch import nn


class Net(nn.Module):
    """Layers a, b, …; `forward` is given as a formula of the net and its input."""

    def __init__(self, forward, **layers: nn.Module) -> None:
        super().__init__()
        self.formula = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x):
        return self.formula(self, x)


class Residual(nn.Module):
    """activation(norm(conv(activation(norm(conv(x))))) + x)."""

    def __init__(self, width: int, activation) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1, self.act1 = nn.BatchNorm2d(width), activation()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2, self.act2 = nn.BatchNorm2d(width), activation()

    def forward(self, x):
        return self.act2(self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x))))) + x)


def residual(activation) -> nn.Sequential:
    """Images [N, 1, 4, 4] → [N, 3] through a residual block."""
    stem = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), activation()]
    return nn.Sequential(*stem, Residual(4, activation), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def plain(activation) -> nn.Sequential:
    """Images [N, 1, 4, 4] → [N, 3] in the manner of VGG."""
    features = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), activation(), nn.AvgPool2d(2)]
    head = [nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), activation(), nn.Dropout(0.5), nn.Linear(8, 3)]
    return nn.Sequential(*features, *head)


TRAINING = (
    "data=synthetic",
    "data.input_shape=[1,4,4]",
    "data.num_classes=3",
    "data.mean=[0.5]",
    "data.std=[0.25]",
    "data.train=16",
    "data.test=3",
    "data.valid=0",
    "data.calibration=8",
    "fit.batch_size=16",
    "device=cpu",
)  # fmt: skip   (images for a method that trains)
