"""Export a trained network to a file for other programs; the file is compared with the network.

snnconv export run=runs/… method=qcfs export=nir            the spiking network as a NIR graph
snnconv export run=runs/… export=onnx export.weight_bits=8  the quantized ANN as ONNX with QDQ nodes
snnconv export run=runs/… export=c                          the integer spiking network, for C
snnconv export run=runs/… export=verilog                    the integer spiking network, for FPGAs

Results: runs/…/evaluations/<method>/<date_time>/: the files, export.json with facts about the comparison, and report.html.  A
format is one file in snnconv/hardware/export/ with a function export(ann, snn, data, folder, *, …) → facts, and one yaml in
conf/export/.
"""

from pathlib import Path
from typing import Any

import rich
from hydra.utils import instantiate
from omegaconf import OmegaConf

from snnconv.hardware.integer.sensitivity import settle_layers
from snnconv.results import exported
from snnconv.runtime import distributed, environment, files
from snnconv.runtime.run import Run


def main(run: Run) -> None:
    """Export one network in one format."""
    cfg = run.cfg
    if cfg.precision == "tf32":
        raise ValueError("precision=tf32: spikes are compared exactly; use precision=float32")
    weights = instantiate(cfg.weights)
    ann = weights(run.load_ann())
    data = instantiate(cfg.data)
    if "image_bits" in cfg.export:  # an integer network
        settle_layers(cfg.integer, ann, data.calibration)
    export = instantiate(cfg.export)
    snn = weights.convert(instantiate(cfg.method), ann, data.calibration)
    snn = snn.encoded(instantiate(cfg.encoder), data.calibration)

    if not distributed.is_main():  # one process writes
        return
    with distributed.alone():
        facts = export(ann, snn, data, run.folder)
    settings: Any = OmegaConf.to_container(cfg.export, resolve=True)
    record = {
        "format": settings.pop("_target_").split(".")[-2],
        **facts,
        "export": {key: _short(key, value) for key, value in settings.items() if not key.startswith("_")},
        "method": cfg.names.method,
        **environment.provenance(cfg.seed, run.device, cfg.precision),
    }
    files.write_json(run.folder / exported.FILE, record)
    exported.write_page(run.folder, record)
    show(run.folder, facts)


def _short(name: str, value: Any) -> Any:
    """A setting for export.json: of tables of costs only the names; .hydra/config.yaml beside it holds their values."""
    return list(value) if name == "costs" and isinstance(value, dict) else value


def show(folder: Path, facts: dict[str, Any]) -> None:
    """Print the files and the facts about them, one per line."""
    console = rich.get_console()
    for name, size in facts["files"].items():
        console.print(f"{folder / name}  ({size / 1024:.1f} KiB)", markup=False, highlight=False, soft_wrap=True)
    for name, value in facts.items():
        if name != "files":
            console.print(f"  {name.replace('_', ' ')}: {value}", markup=False, highlight=False, soft_wrap=True)
