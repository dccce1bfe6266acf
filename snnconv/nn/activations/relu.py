"""ReLU without a threshold, for initial weights and comparisons."""

from torch import nn


class ReLU(nn.ReLU):
    """max(x, 0).  Methods that need thresholds cannot convert it; a QCFS training can start from it (`model.weights`)."""

    def __init__(self) -> None:
        super().__init__()
