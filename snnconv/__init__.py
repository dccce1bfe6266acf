"""ANN-SNN conversion with clipped and quantized activations: training, conversion, evaluation, comparison.

    snn = snnconv.convert(model, calibration=train_loader)
    curve = snnconv.accuracy_over_time(snn, test_loader, timesteps=32)
    print(curve)

Names are imported at first use, so `import snnconv` is fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "prepare": "conversion.preparation",
    "fit": "training.fitting",
    "check": "conversion.preview",
    "convert": "conversion.registry",
    "methods": "conversion.registry",
    "finetune": "conversion.finetuning",
    "accuracy": "spiking.accuracy",
    "accuracy_over_time": "spiking.accuracy",
    "over_time": "spiking.accuracy",
    "Curve": "spiking.accuracy",
    "SpikingModel": "spiking.model",
    "Latency": "spiking.latency",
    "QCFS": "nn.activations.qcfs",
    "explain": "analysis.explanation",
    "energy": "analysis.energy",
    "export": "hardware.export.to_file",
    "save": "conversion.storage",
    "load": "conversion.storage",
}
__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:
    from snnconv.analysis.energy import energy as energy
    from snnconv.analysis.explanation import explain as explain
    from snnconv.conversion.finetuning import finetune as finetune
    from snnconv.conversion.preparation import prepare as prepare
    from snnconv.conversion.preview import check as check
    from snnconv.conversion.registry import convert as convert
    from snnconv.conversion.registry import methods as methods
    from snnconv.conversion.storage import load as load
    from snnconv.conversion.storage import save as save
    from snnconv.hardware.export.to_file import export as export
    from snnconv.nn.activations.qcfs import QCFS as QCFS
    from snnconv.spiking.accuracy import Curve as Curve
    from snnconv.spiking.accuracy import accuracy as accuracy
    from snnconv.spiking.accuracy import accuracy_over_time as accuracy_over_time
    from snnconv.spiking.accuracy import over_time as over_time
    from snnconv.spiking.latency import Latency as Latency
    from snnconv.spiking.model import SpikingModel as SpikingModel
    from snnconv.training.fitting import fit as fit


def __getattr__(name: str) -> Any:
    """Import and return a public name."""
    if name == "readers":
        return import_module(f"{__name__}.readers")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
