"""The table of experiments/readers: NIR files in other tools, as their own readers take them and with `snnconv.readers`.

python scripts/readers_study.py > experiments/readers/README.md        needs spikingjelly, snntorch, sinabs, norse, nirtorch

Networks are the stored runs of the tests, images the test set of the bundled digits.
"""

import sys
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nir
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

import snnconv
from snnconv.conversion.methods import qcfs
from snnconv.hardware.export import nir as exporter
from snnconv.hardware.export.nir_graph import replay
from snnconv.readers.as_read import installed, outputs_as_read
from snnconv.runtime.checkpoint import load_ann

ROOT, TIMESTEPS = Path(__file__).parents[1], 8


def main() -> None:
    """Print the page."""
    print("# NIR files in other tools\n\nMade by `python scripts/readers_study.py`: T = "
          f"{TIMESTEPS}, 360 test images of digits, the networks of tests/stored_runs.\n"
          "Outputs of all timesteps differ where they are not equal to the last bit.\n")  # fmt: skip
    print("| network | reader | as the tool reads it | accuracy % | `snnconv.readers`: differing spikes | differing outputs | "
          "accuracy % |\n|---|---|---|---|---|---|---|")  # fmt: skip
    for name in sys.argv[1:] or ("mlp", "resnet20"):
        with TemporaryDirectory() as folder:
            _rows(name, Path(folder))


def _rows(name: str, folder: Path) -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        data = instantiate(compose("config", ["model=mlp", "levels=4", "device=cpu"]).data)
    snn = qcfs.convert(load_ann(ROOT / "tests" / "stored_runs" / name), [])
    exporter.export(None, snn, data, folder, images=4, timesteps=TIMESTEPS)
    path = folder / exporter.FILE
    x, y = (torch.cat(parts) for parts in zip(*data.test, strict=True))
    outputs, spikes = replay(nir.read(path), x, TIMESTEPS)
    print(f"| {name} | snnconv | – | – | – | – | {_accuracy(outputs, y)} |")
    for tool in installed():
        asis, accuracy = _as_read(path, tool, x, y, outputs)
        model: Any = getattr(snnconv.readers, tool)(path)
        model.reset()
        wrong, theirs = 0, []
        with torch.no_grad():
            for t in range(TIMESTEPS):
                theirs.append(model(x))
                wrong += sum(int((model.spikes[node].bool() != trains[t]).sum()) for node, trains in spikes.items())
        ours = torch.stack(theirs)
        total = sum(trains.numel() for trains in spikes.values())
        differing = int((ours != outputs).sum())
        cells = (
            name,
            f"{tool} {version(tool)}",
            asis,
            accuracy,
            f"{wrong} of {total:,}",
            differing,
            _accuracy(ours, y),
        )
        print("| " + " | ".join(map(str, cells)) + " |")


def _as_read(path: Path, tool: str, x: torch.Tensor, y: torch.Tensor, outputs: torch.Tensor) -> tuple[str, str]:
    try:
        theirs = outputs_as_read(path, tool, x, TIMESTEPS)
    except Exception as error:  # any kind: it belongs into the table
        return f"{type(error).__name__}: {' '.join(str(error).split())[:70]}".replace("|", "/"), "–"
    if theirs.shape != outputs.shape:
        return f"outputs of shape {list(theirs.shape)}", "–"
    return f"{100 * (theirs != outputs).float().mean():.1f} % of outputs differ", _accuracy(theirs, y)


def _accuracy(outputs: torch.Tensor, targets: torch.Tensor) -> str:
    return f"{100 * (outputs.mean(0).argmax(1) == targets).float().mean():.2f}"


if __name__ == "__main__":
    main()
