"""Export of the spiking network as a NIR graph (Neuromorphic Intermediate Representation), which is read back and replayed.

NIR's integrate-and-fire node resets to v_reset, fires above its threshold and starts from 0 (nir 1.0.8, ir/neuron.py).
Converted networks subtract θ, fire at v ≥ θ, and start from v(0), mostly θ/2.  NIR has no fields for these properties, so they are
stored in the metadata of every IF node:

    reset = "subtract"          v ← v − v_threshold after a spike
    fires = "v >= v_threshold"
    v_initial                   v(0), a number or an array, in the unit of v_threshold
    threshold                   θ that the neuron had in the network, a number or [C]

and of the graph: input = "constant" (the image is the current of every step, dt = 1), readout = "mean" (of the output over steps).

The readers of the tools ignore metadata, so reset and v(0) are wrong in all of them:

    SpikingJelly 2.0.0          hard reset, v(0) = 0
    snnTorch 1.0.0              subtracts, but with beta = 0.9 and v(0) = 0; flattens the batch, and stops at average pooling
    sinabs 3.1.3                subtracts, but with several spikes a step, potentials that end at −θ, and v(0) = 0; nirtorch runs
                                residual networks in a wrong order
    norse 1.1.0                 hard reset, v(0) = 0; flattens the batch

`snnconv.readers` builds models of these tools that emit the same spikes (tests/readers).
"""

import io
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from snnconv.analysis.fan_out import LOGITS
from snnconv.hardware.export.checking import images_to_compare, require_settings
from snnconv.hardware.export.nir_graph import METADATA, PULSE, package, replay, to_nir, write
from snnconv.hardware.export.normal_form import NormalForm, normal_form
from snnconv.readers.as_read import comparison
from snnconv.runtime import files
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.recording import recording
from snnconv.spiking.simulation import wanted_timesteps

FILE = "network.nir"
ROUNDING = 0.01  # largest share of spikes that may differ from the original network because weights are rounded


def export(
    ann: Any, snn: SpikingModel, data: Any, folder: Path, *, images: int = 8, timesteps: Any = 32, normalize: bool = True,
    v_initial: str = METADATA,
) -> dict[str, Any]:  # fmt: skip
    """Write `snn` to `folder`/network.nir; returns facts about the comparison.  `ann` is not needed.

    On the first `images` test images and at the largest of `timesteps`, every spike and logit of the replayed file is compared with
    the network whose weights it holds.  With `normalize`, thresholds are scaled to 1, except for neurons that share a current with
    neurons of another θ.  This rounds the weights again, so spikes at ties may differ from `snn`; `rounding` counts them.  With
    v_initial="pulse", the graph has one more input channel, whose pulse in the first timestep sets v(0) (`nir_pulse`).

    ValueError naming the layer, without writing a file, if a value differs, or if NIR does not support an operation or neuron.
    """
    require_settings(normalize=normalize)
    steps, shown = max(wanted_timesteps(timesteps)), images_to_compare(data.test, images)
    form = normal_form(snn, shown, normalize)
    if v_initial not in (METADATA, PULSE):
        raise ValueError(f"export.v_initial={v_initial!r}: must be {METADATA} or {PULSE}")
    graph = to_nir(form, shown, v_initial)
    stream = io.BytesIO()
    write(stream, graph)
    facts = _compared(_read(stream, FILE), form, graph, snn, shown, steps, FILE)
    files.replace(folder / FILE, stream.getvalue())
    outputs, _ = replay(graph, shown, steps)
    return {
        "files": {FILE: len(stream.getvalue())}, **facts,
        "as_the_installed_tools_read_it": comparison(folder / FILE, shown, outputs),
    }  # fmt: skip


def check(path: str | Path, snn: SpikingModel, images: Float[Tensor, "N *image"], timesteps: int) -> dict[str, Any]:
    """Compare a file with the network `snn`: every number in it, and every spike and logit on `images`.

    ValueError naming the file and the layer that differs.
    """
    graph = _read(Path(path), str(path))
    form = normal_form(snn, images, bool(graph.metadata.get("normalize", True)))
    expected = to_nir(form, images, PULSE if PULSE in graph.metadata else METADATA)
    return _compared(graph, form, expected, snn, images, timesteps, str(path))


def _compared(
    graph: Any, form: NormalForm, expected: Any, snn: SpikingModel, images: Tensor, timesteps: int, where: str
) -> dict[str, Any]:
    """Compare a graph with the network; returns counts.  ValueError naming the layer that differs."""
    _require_equal_graphs(where, graph, expected)
    images, exact = images.float().cpu(), snn.exact or snn
    logits, spikes = replay(graph, images, timesteps)
    logits_of_form, spikes_of_form = _run(form.model, images, timesteps)
    for path, theirs in {**spikes_of_form, LOGITS: logits_of_form}.items():
        differing = int((theirs != (logits if path == LOGITS else spikes[path])).sum())
        if differing:
            raise ValueError(
                f"{where}: {path}: {differing} of {theirs.numel()} values differ when the file is replayed"
            )
    snn_logits, snn_spikes = _run(exact, images.to(next(exact.network.parameters()).device), timesteps)
    total = sum(x.numel() for x in spikes_of_form.values())
    rounded = sum(int((spikes[path] != snn_spikes[path]).sum()) for path in snn_spikes)
    if rounded > ROUNDING * total:
        raise ValueError(f"{where}: {rounded} of {total} spikes differ from the network before its weights were scaled, which is "
                         "more than rounding at ties can cause; use export.normalize=false")  # fmt: skip
    return {
        "images": len(images),
        "timesteps": timesteps,
        "compared": total,
        "differing_spikes": 0,
        "rounding": {"differing_spikes": rounded, "differing_predictions": _predictions(logits, snn_logits)},
        "thresholds_of_1": len(form.scaled),
        "thresholds_kept": [path for path in form.thresholds if path not in form.scaled],
        "nodes": dict(Counter(type(node).__name__ for node in graph.nodes.values())),
        "reset": "subtract, by metadata; NIR's IF node resets to v_reset",
        "v_initial": f"by {graph.metadata[PULSE]}"
        if PULSE in graph.metadata
        else "by metadata; NIR's IF node starts from 0",
    }


def _require_equal_graphs(where: str, graph: Any, expected: Any) -> None:
    """Raise a ValueError naming the first difference."""
    odd = sorted(set(graph.nodes) ^ set(expected.nodes))
    if odd:
        raise ValueError(f"{where}: holds another network; only one of the two has {', '.join(odd)}")
    for name, node in expected.nodes.items():
        one, other = node.to_dict(), graph.nodes[name].to_dict()
        fields = [key for key in sorted({*one, *other}) if not _equal(one.get(key), other.get(key))]
        if fields:
            raise ValueError(
                f"{where}: {name}: {', '.join(fields)} differs from the network; the file was changed or is of another network"
            )
    if [tuple(edge) for edge in graph.edges] != expected.edges:
        raise ValueError(f"{where}: its edges differ from the network; the file was changed or is of another network")
    if not _equal(graph.metadata, expected.metadata):
        raise ValueError(
            f"{where}: its metadata differ ({graph.metadata}); it was changed or written by another version"
        )


def _run(model: SpikingModel, images: Tensor, timesteps: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits [T, N, K], and spikes [T, N, …] of every layer as booleans, on the CPU."""
    trains: dict[str, list[Tensor]] = defaultdict(list)
    with recording(model, lambda path, spikes: trains[path].append(spikes.cpu().bool())):
        logits = model(images, timesteps).cpu()
    return logits, {path: torch.cat(steps) for path, steps in trains.items()}


def _predictions(one: Tensor, other: Tensor) -> int:
    """Number of images whose prediction differs after all steps."""
    return int((one.mean(0).argmax(1) != other.mean(0).argmax(1)).sum())


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    return bool(np.array_equal(np.asarray(one), np.asarray(other)))


def _read(source: Any, where: str) -> Any:
    try:
        return package().read(source)
    except (OSError, KeyError, AssertionError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: damaged, or not a NIR graph ({error})") from error
