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
