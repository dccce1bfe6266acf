"""Operations of the integer network, counted with loops, and their energy by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from hardware_networks import NETWORKS
from snnconv.analysis.costs import Costs
from snnconv.conversion.methods import qcfs
from snnconv.hardware.integer.events import Events, energies, events
from snnconv.hardware.integer.golden import results
from snnconv.hardware.integer.network import integerize
from snnconv.hardware.integer.program import program_of
from snnconv.nn.activations.qcfs import QCFS
from snnconv.spiking.neurons.integrate_fire import IntegrateFire


@pytest.mark.parametrize("name", ["plain", "residual", "low_rank"])
def test_every_operation_is_counted(name, exact_images):
    torch.manual_seed(2)
    snn = qcfs.convert(NETWORKS[name]().eval(), [], neuron=IntegrateFire)
    x = exact_images(3, 1)
    program = program_of(integerize(snn, [(x, None)]), x.shape[1:])
    images = program.digitize(x.numpy())
    expected = {field: np.zeros(3, int) for field in ("accumulates", "macs", "scalings", "additions", "updates")}
    for t, values in enumerate(results(program, images, 3)):
        for number, step in enumerate(program.steps):
            if number < next(iter(program.neurons().values())) and t > 0:  # before the first neuron: once
                continue
            if step.kind in ("conv", "linear"):
                spikes = program.steps[_origin(program, step.inputs[0])].kind == "fire"
                for n, _, *place in np.argwhere(values[step.inputs[0]]):
                    expected["accumulates" if spikes else "macs"][n] += step.shape[0] * _reached(step, place)
            if step.kind in ("conv", "linear", "times", "requantize"):
                expected["scalings"] += step.size
            if step.kind == "sum_pool":
                for n, _, row, column in np.argwhere(values[step.inputs[0]]):
                    windows = [range(o * s, o * s + k) for o, s, k in _windows(step)]
                    expected["additions"][n] += sum(
                        row in rows and column in columns for rows in windows for columns in windows
                    )
            expected["additions"] += step.size * (step.kind == "add")
            expected["updates"] += step.size * (step.kind == "fire")
    assert {field: list(counts) for field, counts in expected.items()} == events(program, images, 3).as_dict()
    assert expected["accumulates"].min() > 0


def _origin(program, number) -> int:
    """The step whose elements a reshape passes on."""
    return _origin(program, program.steps[number].inputs[0]) if program.steps[number].kind == "reshape" else number


def _windows(step) -> list[tuple[int, int, int]]:
    """(index, stride, kernel) of square windows without padding."""
    assert step.settings["padding"] == [0, 0]
    return [(o, step.settings["stride"][0], step.settings["kernel"][0]) for o in range(step.shape[1])]


def test_energy_by_hand():
    costs = Costs(mac=3, accumulate=1, update=0.5, memory=0.25, weight_bits=8, activation_bits=4, potential_bits=16)
    counts = Events(*(np.array([n]) for n in (10, 7, 5, 3, 2)))
    accumulate, mac, addition, update = 1 + 0.25 * (8 + 32), 3 + 0.25 * (8 + 4), 1 + 0.25 * 32, 0.5 + 0.25 * 32
    assert counts.energy(costs).tolist() == [10 * accumulate + 12 * mac + 3 * addition + 2 * update]


def test_energy_beside_the_estimate(exact_images):
    """Without pooling and shortcuts both count one accumulate for each weight that a spike reaches; few spikes differ."""
    torch.manual_seed(0)
    ann = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), QCFS(4, 1.0), nn.Conv2d(4, 4, 3), QCFS(4, 1.0), nn.Flatten(), nn.Linear(16, 3)
    )
    for layer in (ann[0], ann[2]):
        layer.weight.data, layer.bias.data = (8 * layer.weight.data).round() / 8, (8 * layer.bias.data).round() / 8
    snn = qcfs.convert(ann.eval(), [], neuron=IntegrateFire)
    batches = [(exact_images(4, 1), torch.zeros(4))]
    program = program_of(integerize(snn, batches, image_bits=16), (1, 4, 4))
    counts = events(program, program.digitize(batches[0][0].numpy()), 3)
    table = {"accumulates": Costs(mac=0, accumulate=1)}
    energy = energies(counts, table, snn, batches, 3)["accumulates"]
    assert energy["counted"] == pytest.approx(energy["estimate"], rel=0.02)
    assert energy["counted"] == pytest.approx(counts.accumulates.mean())
    assert energy["counted"] > 0
    assert energies(counts, {}, snn, batches, 3) == {}


def _reached(step, place) -> int:
    """The number of output positions to which an input at `place` contributes (1 of a linear layer)."""
    count = 1
    for axis, p in enumerate(place):
        kernel, stride = step.arrays["weights"].shape[2 + axis], step.settings["stride"][axis]
        dilation, padding = step.settings["dilation"][axis], step.settings["padding"][axis]
        starts = [o * stride - padding for o in range(step.shape[1 + axis])]
        count *= sum(start + k * dilation == p for start in starts for k in range(kernel))
    return count
