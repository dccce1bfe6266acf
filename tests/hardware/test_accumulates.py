"""Accumulates of event-driven hardware, counted with loops."""

import numpy as np
import pytest
import torch

from hardware_networks import NETWORKS
from snnconv.conversion.methods import qcfs
from snnconv.hardware.integer.accumulates import accumulates
from snnconv.hardware.integer.golden import results
from snnconv.hardware.integer.network import integerize
from snnconv.hardware.integer.program import program_of
from snnconv.spiking.neurons.integrate_fire import IntegrateFire


@pytest.mark.parametrize("name", ["plain", "residual"])
def test_every_input_pays_for_the_sums_that_it_reaches(name, exact_images):
    torch.manual_seed(2)
    snn = qcfs.convert(NETWORKS[name]().eval(), [], neuron=IntegrateFire)
    x = exact_images(3, 1)
    program = program_of(integerize(snn, [(x, None)]), x.shape[1:])
    images = program.digitize(x.numpy())
    expected = np.zeros(3, int)
    for t, values in enumerate(results(program, images, 3)):
        for number, step in enumerate(program.steps):
            first = number < next(iter(program.neurons().values()))  # before the first neuron: once
            if step.kind not in ("conv", "linear") or (first and t > 0):
                continue
            for n, _, *place in np.argwhere(values[step.inputs[0]]):
                expected[n] += step.shape[0] * _reached(step, place)
    assert accumulates(program, images, 3).tolist() == expected.tolist()
    assert expected.min() > 0


def _reached(step, place) -> int:
    """The number of output positions to which an input at `place` contributes (1 of a linear layer)."""
    count = 1
    for axis, p in enumerate(place):
        kernel, stride = step.arrays["weights"].shape[2 + axis], step.settings["stride"][axis]
        dilation, padding = step.settings["dilation"][axis], step.settings["padding"][axis]
        starts = [o * stride - padding for o in range(step.shape[1 + axis])]
        count *= sum(start + k * dilation == p for start in starts for k in range(kernel))
    return count
