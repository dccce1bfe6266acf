"""Max pooling of spikes: a residual network with two max poolings on the bundled digits, converted with each family of operators.

python experiments/any_network/max_pooling.py     trains, converts, writes max_pooling.json and the table of README.md (minutes)
"""

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import snnconv
from snnconv.runtime.environment import commit, versions
from snnconv.spiking.latency import latency_class
from snnconv.spiking.operators import choice

FOLDER = Path(__file__).parent
TIMESTEPS = (1, 2, 4, 8, 16, 32, 64)
TEST = 360
ROWS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("percentile", "auto", {}),
    ("percentile", "winner", {}),
    ("percentile", "running_mean", {}),
    ("expectation", "auto", {"share": 0.75, "v_initial": 0.25}),
    ("differential", "auto", {}),
)


def unit(before: int, after: int) -> nn.Sequential:
    """Convolution and batch norm."""
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after))


class Block(nn.Module):
    """x + two convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = unit(channels, channels), unit(channels, channels)
        self.inner, self.outer = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """The sum."""
        return self.outer(x + self.second(self.inner(self.first(x))))


def build() -> nn.Module:
    """Three stages, with max pooling between them."""
    layers: list[nn.Module] = [unit(1, 16), nn.ReLU(), Block(16)]
    for width in (16, 32):
        layers += [nn.MaxPool2d(2), unit(width, 2 * width), nn.ReLU(), Block(2 * width)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def trained(images: Tensor, labels: Tensor, epochs: int = 40) -> nn.Module:
    """The network after `epochs`."""
    network = build()
    optimizer = torch.optim.AdamW(network.parameters(), 0.01, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, epochs * (len(images) // 64 + 1))
    for _ in range(epochs):
        for part in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(network(images[part]), labels[part]).backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def main() -> None:
    """Train, convert, write."""
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32).unsqueeze(1)
    labels, order = torch.tensor(digits.target), torch.randperm(len(digits.target))
    test, train = order[:TEST], order[TEST:]
    network = trained(images[train], labels[train])
    with torch.no_grad():
        ann = (network(images[test]).argmax(1) == labels[test]).float().mean().item()
    rows = []
    for method, operators, settings in ROWS:
        snn = snnconv.convert(network, images[train], method=method, operators=getattr(choice, operators), **settings)
        curve = snnconv.accuracy_over_time(snn, [(images[test], labels[test])], timesteps=TIMESTEPS[-1])
        accuracy = OrderedDict((str(t), curve.accuracy[t]) for t in TIMESTEPS)
        names = {"method": method, "operators": operators, "settings": settings}
        rows.append({**names, "class": latency_class(snn.latency.as_dict()), "accuracy": accuracy})
        print(rows[-1], flush=True)
    result = {"images": TEST, "ann": ann, "rows": rows, "commit": commit(), "versions": versions()}
    (FOLDER / "max_pooling.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    write(result)


def write(result: dict[str, Any]) -> None:
    """The table of README.md."""
    lines = [["method", "operators", "class", *(f"T = {t}" for t in TIMESTEPS)], ["---"] * (3 + len(TIMESTEPS))]
    for row in result["rows"]:
        settings = "".join(f", {name} = {value}" for name, value in row["settings"].items())
        cells = [f"{100 * row['accuracy'][str(t)]:.2f}" for t in TIMESTEPS]
        lines.append([row["method"] + settings, row["operators"], row["class"], *cells])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    page = FOLDER / "README.md"
    before, _, rest = page.read_text(encoding="utf-8").partition("<!-- max pooling -->\n")
    _, end, after = rest.partition("<!-- end max pooling -->")
    about = f"Accuracy in percent on {result['images']} test images; ANN {100 * result['ann']:.2f}."
    page.write_text(f"{before}<!-- max pooling -->\n{about}\n\n{table}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
