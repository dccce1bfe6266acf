"""Static ranges: no image leaves them, and where one layer alone decides they are attained."""

from itertools import product

import numpy as np
import pytest
import torch

from hardware_networks import NETWORKS
from snnconv.conversion.methods import qcfs
from snnconv.hardware.integer.golden import result_of
from snnconv.hardware.integer.network import integerize
from snnconv.hardware.integer.program import Program, Step, program_of
from snnconv.hardware.integer.ranges import bits_bound, ranges, width
from snnconv.spiking.neurons.integrate_fire import IntegrateFire


def replayed(program: Program, images: np.ndarray, timesteps: int):
    """Every (step, results, potentials) of a run, computed here."""
    state: dict[int, np.ndarray] = {}
    fired: dict[int, np.ndarray] = {}
    for t in range(timesteps):
        results: list[np.ndarray] = []
        for number, step in enumerate(program.steps):
            arrays = {name: values.astype(np.int64) for name, values in step.arrays.items()}
            inputs = [images] if step.kind == "image" else [results[source] for source in step.inputs]
            charged = None
            if step.kind == "fire":
                shape = (-1, *[1] * (len(step.shape) - 1))
                theta, start = (arrays[name].reshape(shape) for name in ("threshold", "start"))
                charged = state.get(number, start) + inputs[0]
                if "bias" in arrays:
                    charged = charged + arrays["bias"][min(t, len(arrays["bias"]) - 1)].reshape(shape)
                if bits := step.settings["bits"]:
                    charged = charged.clip(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
                results.append((charged >= theta).astype(np.int64))
                state[number] = charged - theta * results[-1]
                fired[number] = fired.get(number, 0) + results[-1]
                if step.settings.get("no_debt"):
                    state[number] = np.where(fired[number] == 0, state[number].clip(0), state[number])
            else:
                results.append(result_of(step, arrays, inputs))
            yield number, results[-1], charged


@pytest.mark.parametrize("settings", [{}, {"bits": 3, "membrane_bits": 14}])
@pytest.mark.parametrize("name", NETWORKS)
def test_no_image_leaves_the_ranges(name, settings):
    torch.manual_seed(3)
    x = torch.randn(20, 1, 4, 4)
    network = integerize(qcfs.convert(NETWORKS[name]().eval(), [], neuron=IntegrateFire), [(x, None)], **settings)
    program, timesteps = program_of(network, x.shape[1:]), 6
    bounds, most = ranges(program, timesteps), program.image.settings["most"]
    generator = np.random.default_rng(0)
    images = np.concatenate(
        [generator.integers(-most, most + 1, (30, 1, 4, 4)), generator.choice([-most, most], (30, 1, 4, 4))]
    )
    for number, results, potentials in replayed(program, images, timesteps):
        assert bounds[number].least <= results.min()
        assert results.max() <= bounds[number].most
        if potentials is not None:
            assert bounds[number].potentials[0] <= potentials.min()
            assert potentials.max() <= bounds[number].potentials[1]
    bits, currents = bits_bound(program, timesteps).values()
    assert currents == {step.name: bounds[step.inputs[0]].bits for step in program.steps if step.kind == "fire"}
    assert bits.keys() == network.neurons.keys()
    assert all(n <= 14 for n in bits.values()) or not settings


@pytest.mark.parametrize("no_debt", [False, True])
def test_ranges_of_biases_over_time(no_debt):
    """A neuron that receives −3 … 3, with a bias of 4, −6 and −6: all inputs of three steps, tried one after another."""
    arrays = {name: np.array(values, np.int32) for name, values in
              {"threshold": [5], "start": [2], "bias": [[4], [-6]]}.items()}  # fmt: skip
    steps = [
        Step("image", "image", (), (1,), {"most": 3}),
        Step("fire", "act", (0,), (1,), {"bits": 0, "no_debt": no_debt}, arrays),
    ]
    program, least, most = Program(steps, 0, 1.0, {}), 0, 0
    for inputs in product(range(-3, 4), repeat=3):
        v, fired = 2, False
        for x, bias in zip(inputs, (4, -6, -6), strict=True):
            v += x + bias
            least, most = min(least, v), max(most, v)
            fired, v = fired or v >= 5, v - 5 * (v >= 5)
            v = max(v, 0) if no_debt and not fired else v
    assert ranges(program, 3)[1].potentials == (least, most)


def test_ranges_of_one_layer_are_attained():
    """All inputs of a small layer, tried."""
    generator = np.random.default_rng(1)
    weights = generator.integers(-7, 8, (3, 4)).astype(np.int8)
    multiplier, bias = np.array([1, 3, -2], np.int32), np.array([5, -4, 0], np.int32)
    steps = [
        Step("image", "image", (), (4,), {"most": 2}),
        Step("linear", "fc", (0,), (3,), {}, {"weights": weights, "multiplier": multiplier, "bias": bias}),
        Step(
            "fire",
            "act",
            (1,),
            (3,),
            {"bits": 0},
            {"threshold": np.array([9], np.int32), "start": np.array([4], np.int32)},
        ),
    ]
    program = Program(steps, 1, 1.0, {})
    images = np.array(list(product(range(-2, 3), repeat=4)))
    currents = images @ weights.T * multiplier + bias
    assert (ranges(program, 1)[1].least, ranges(program, 1)[1].most) == (currents.min(), currents.max())
    for timesteps in (1, 2, 3):
        charges = [values for _, _, values in replayed(program, images, timesteps) if values is not None]
        after = np.concatenate([values - 9 * (values >= 9) for values in charges])
        least, most = ranges(program, timesteps)[2].potentials
        assert most == np.concatenate(charges).max()
        assert least == min(after.min(), np.concatenate(charges).min())


@pytest.mark.parametrize(
    ("least", "most", "bits"), [(0, 0, 1), (-1, 0, 1), (0, 1, 2), (-2, 1, 2), (-3, 1, 3), (-128, 127, 8), (0, 128, 9)]
)
def test_width(least, most, bits):
    assert width(least, most) == bits
