"""A small network for tests: two convolutions, ReLU as a function."""

from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    def __init__(self, num_classes: int, input_shape) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(input_shape[0], 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.fc = nn.Linear(8 * 4 * 4, num_classes)

    def forward(self, x):
        return self.fc(F.relu(self.conv2(F.relu(self.bn1(self.conv1(x))))).flatten(1))
