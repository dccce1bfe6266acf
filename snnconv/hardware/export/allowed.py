"""The export formats that support a network, and the reasons why others do not."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from snnconv.data.batches import first_images
from snnconv.hardware.export.nir_graph import to_nir
from snnconv.hardware.export.normal_form import normal_form
from snnconv.hardware.export.onnx_graph import Built
from snnconv.hardware.export.onnx_unrolled import Unrolled
from snnconv.hardware.integer.network import integerize
from snnconv.hardware.integer.program import program_of
from snnconv.spiking.model import SpikingModel

ALLOWED = "allowed"


def exports_of(ann: nn.Module, snn: SpikingModel, batches: Iterable[tuple[Tensor, Any]]) -> dict[str, str] | None:
    """`exports` with the first images of `batches`; None without images."""
    images = first_images(batches, 2)
    return exports(ann, snn, torch.cat(images)) if images else None


@torch.no_grad()
def exports(ann: nn.Module, snn: SpikingModel, images: Tensor) -> dict[str, str]:
    """For each format "allowed", or the reason why the network cannot be exported; `images` [N, …] are normalized.

    Graphs and integer networks are built as in an export, but nothing is written, compiled or compared.
    """
    builders = _builders(ann, snn, images.float().cpu())
    reasons = {build: _reason(build) for build in dict.fromkeys(builders.values())}
    return {name: reasons[build] for name, build in builders.items()}


def _builders(ann: nn.Module, snn: SpikingModel, images: Tensor) -> dict[str, Callable[[], Any]]:
    """Functions that build the content of each format."""

    def nir() -> None:
        to_nir(normal_form(snn, images), images)

    def onnx() -> None:
        Built(ann, images)

    def over_time() -> None:
        Unrolled(normal_form(snn, images), images, timesteps=1)

    def integers() -> None:
        program_of(integerize(snn, [(images, None)]), images.shape[1:])

    return {"nir": nir, "onnx": onnx, "onnx_over_time": over_time, "c": integers, "verilog": integers}


def _reason(build: Callable[[], Any]) -> str:
    try:
        build()
    except ValueError as error:
        return str(error)
    except Exception as error:  # a report must not fail because of a format that was not requested
        return f"cannot be built ({type(error).__name__}: {error})"
    return ALLOWED
