"""Print the page experiments/readers: NIR files in other tools, with their own readers and with `snnconv.readers`.

python scripts/readers_study.py > experiments/readers/README.md        needs spikingjelly, snntorch, sinabs, norse, nirtorch

The networks are the stored runs of the tests, and a VGG-11 and a MobileNet-like network that are trained first (L = 4).  The images
are the test set of the digits.
"""

import contextlib
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nir
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import nn
from torch.nn import functional as F

import snnconv
from snnconv.conversion.methods import qcfs
from snnconv.hardware.export import nir as exporter
from snnconv.hardware.export.nir_graph import replay
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.models.vgg import vgg11
from snnconv.readers.as_read import installed, outputs_as_read
from snnconv.runtime.checkpoint import load_ann

ROOT, TIMESTEPS, EPOCHS = Path(__file__).parents[1], 8, 8
STORED = ("mlp", "resnet20")


def main() -> None:
    """Print the page."""
    print("# NIR files in other tools\n\nMade by `python scripts/readers_study.py`: T = "
          f"{TIMESTEPS}, 360 test images of digits; mlp and resnet20 are networks of "
          f"tests/stored_runs, the others are trained for {EPOCHS} epochs.\n"
          "Outputs differ if they are not equal to the last bit, in any timestep.\n")  # fmt: skip
    print("| network | reader | as the tool reads it | accuracy % | `snnconv.readers`: differing spikes | differing outputs | "
          "accuracy % |\n|---|---|---|---|---|---|---|")  # fmt: skip
    for name in sys.argv[1:] or (*STORED, "vgg11", "mobile"):
        with initialize_config_dir(str(ROOT / "conf"), version_base=None):
            data = instantiate(compose("config", ["model=mlp", "levels=4", "device=cpu"]).data)
        snn = qcfs.convert(
            load_ann(ROOT / "tests" / "stored_runs" / name) if name in STORED else _trained(name, data), []
        )
        for v_initial in ("metadata", "pulse") if name in STORED else ("metadata",):
            with TemporaryDirectory() as folder:
                exporter.export(None, snn, data, Path(folder), images=4, timesteps=TIMESTEPS, v_initial=v_initial)
                _rows(f"{name}, v(0) by {v_initial}", Path(folder) / exporter.FILE, data)


def _rows(name: str, path: Path, data: Any) -> None:
    x, y = (torch.cat(parts) for parts in zip(*data.test, strict=True))
    outputs, spikes = replay(nir.read(path), x, TIMESTEPS)
    print(f"| {name} | snnconv | – | – | – | – | {_accuracy(outputs, y)} |")
    total = sum(trains.numel() for trains in spikes.values())
    for tool in installed():
        model: Any = getattr(snnconv.readers, tool)(path)
        model.reset()
        wrong, theirs = 0, []
        with torch.no_grad():
            for t in range(TIMESTEPS):
                theirs.append(model(x))
                wrong += sum(int((model.spikes[node].bool() != trains[t]).sum()) for node, trains in spikes.items())
        ours = torch.stack(theirs)
        cells = (
            *(name, f"{tool} {version(tool)}", *_as_read(path, tool, x, y, outputs)),
            *(f"{wrong} of {total:,}", int((ours != outputs).sum()), _accuracy(ours, y)),
        )
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def _trained(name: str, data: Any) -> nn.Module:
    """VGG-11 or the MobileNet-like network, trained on digits."""
    torch.manual_seed(0)
    activation = partial(QCFS, 4, 4.0)
    network = vgg11(10, (1, 8, 8), activation) if name == "vgg11" else Mobile(activation)
    with contextlib.redirect_stdout(sys.stderr):
        snnconv.fit(network, data.train, epochs=EPOCHS, lr=0.05)
    return network.eval()


class Mobile(nn.Module):
    """Inverted residual blocks as in MobileNetV2: 1×1, depthwise 3×3 and linear 1×1 convolutions."""

    def __init__(self, activation: Any) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), activation())
        sizes = ((16, 16, 1), (16, 24, 2), (24, 24, 1), (24, 32, 2), (32, 32, 1))
        self.blocks = nn.ModuleList(_inverted(*size, activation) for size in sizes)
        self.residual = [before == after for before, after, _ in sizes]
        self.head = nn.Sequential(nn.Conv2d(32, 64, 1, bias=False), nn.BatchNorm2d(64), activation())
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        x = self.stem(x)
        for block, residual in zip(self.blocks, self.residual, strict=True):
            x = x + block(x) if residual else block(x)
        return self.linear(F.adaptive_avg_pool2d(self.head(x), 1).flatten(1))


def _inverted(before: int, after: int, stride: int, activation: Any) -> nn.Sequential:
    wide = 4 * before
    return nn.Sequential(
        nn.Conv2d(before, wide, 1, bias=False), nn.BatchNorm2d(wide), activation(),
        nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), activation(),
        nn.Conv2d(wide, after, 1, bias=False), nn.BatchNorm2d(after),
    )  # fmt: skip


def _as_read(path: Path, tool: str, x: torch.Tensor, y: torch.Tensor, outputs: torch.Tensor) -> tuple[str, str]:
    try:
        theirs = outputs_as_read(path, tool, x, TIMESTEPS)
    except Exception as error:  # an error of any class becomes an entry of the table
        return f"{type(error).__name__}: {' '.join(str(error).split())[:70]}".replace("|", "/"), "–"
    if theirs.shape != outputs.shape:
        return f"outputs of shape {list(theirs.shape)}", "–"
    return f"{100 * (theirs != outputs).float().mean():.1f} % of outputs differ", _accuracy(theirs, y)


def _accuracy(outputs: torch.Tensor, targets: torch.Tensor) -> str:
    return f"{100 * (outputs.mean(0).argmax(1) == targets).float().mean():.2f}"


if __name__ == "__main__":
    main()
