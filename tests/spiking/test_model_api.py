"""A SpikingModel as a module among others: own T, wrong images, copies, files, state_dict, devices, printing."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from snnconv.conversion.registry import convert, methods
from snnconv.nn.activations.qcfs import QCFS


def network(activation=lambda: QCFS(4, 1.0), seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), activation(), nn.AvgPool2d(2), nn.Conv2d(16, 4, 3),
        activation(), nn.Flatten(), nn.Linear(16, 3)).eval()  # fmt: skip


IMAGES = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))
CALIBRATION = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(2))


def converted(method: str, activation=lambda: QCFS(4, 1.0), **settings):
    return convert(network(activation), [CALIBRATION] * 40, method=method, **settings)


# T and images


def test_without_timesteps_the_model_takes_its_own():
    snn = converted("qcfs")
    assert len(snn(IMAGES)) == snn.timesteps == 32
    snn.timesteps = 5
    assert torch.equal(snn(IMAGES), snn(IMAGES, 5))
    snn.timesteps = None
    with pytest.raises(ValueError, match=r"no default T; call model\(images, timesteps=8\)"):
        snn(IMAGES)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            (1, 8, 8),
            r"images of shape \[1, 8, 8\]: 0 expects \[N, 1, H, W\]; for a single image use images.unsqueeze\(0\)",
        ),
        ((2, 3, 8, 8), r"images of shape \[2, 3, 8, 8\]: 0 expects \[N, 1, H, W\]$"),
        ((8,), r"images of shape \[8\]: expected a batch"),
    ],
)
def test_images_of_another_shape_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        converted("qcfs")(torch.zeros(shape), 2)


# copies and files

EVERY = [*((name, QCFS) for name in methods(network())), *((name, nn.ReLU) for name in methods(network(nn.ReLU)))]


def stored(snn):
    file = io.BytesIO()
    torch.save(snn, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(("method", "kind"), EVERY, ids=lambda value: getattr(value, "__name__", value))
def test_copies_and_files_spike_alike(method, kind):
    """Also at a T for which the network is made later."""
    snn = converted(method, (lambda: QCFS(4, 1.0)) if kind is QCFS else nn.ReLU)
    before = snn(IMAGES, 3)
    copies = [copy.deepcopy(snn), pickle.loads(pickle.dumps(snn)), stored(snn)]
    for other in copies:
        assert torch.equal(other(IMAGES, 3), before)
        assert torch.equal(other(IMAGES, 5), snn(IMAGES, 5))
        other.load_state_dict(snn.state_dict())


def test_bf16_and_event_driven_models_are_copied():
    snn = converted("qcfs", simulation={"precision": "bf16"})
    other = stored(snn)
    assert torch.equal(other(IMAGES, 4), snn(IMAGES, 4))
    assert torch.equal(other.exact(IMAGES, 4), snn.exact(IMAGES, 4))


# state_dict


def test_the_state_holds_weights_thresholds_and_first_potentials():
    snn = converted("qcfs", simulation={"fold_threshold": False})
    state = snn.state_dict()
    assert state["network.2.neuron.threshold"] == 1.0
    assert state["network.2.neuron.v_initial"] == 0.5
    assert torch.equal(state["network.0.weight"], snn.network[0].weight)
    assert all(isinstance(value, torch.Tensor) for value in state.values())  # as safetensors needs it


def test_a_state_brings_its_weights():
    snn, other = converted("qcfs"), convert(network(seed=1))
    assert not torch.equal(snn(IMAGES, 4), other(IMAGES, 4))
    other.load_state_dict(snn.state_dict())
    assert torch.equal(snn(IMAGES, 4), other(IMAGES, 4))


def other_theta():
    ann = network()
    ann[5].set_threshold(0.5)
    return convert(ann)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (other_theta, "network.5.neuron.threshold: 1 in this model, 0.5 in the state"),
        (lambda: converted("signed"), "network.2.neuron.kind: IntegrateFire in this model, Signed in the state"),
        (lambda: converted("burst"), "Burst in the state"),
        (lambda: converted("parallel"), "Parallel in the state"),
        (lambda: converted("potential_init", variant="per_neuron"), None),
    ],
    ids=["θ", "signed", "burst", "parallel", "v(0)"],
)
def test_the_state_of_another_conversion_is_refused_by_name(make, message):
    other = make()
    other(IMAGES, 4)
    with pytest.raises(RuntimeError, match=message or r"v_initial: 0.5 in this model, .* of shape"):
        converted("qcfs").load_state_dict(other.state_dict())


def test_steps_of_the_warm_up_are_part_of_the_state():
    one, two = converted("srp", warmup=2), converted("srp", warmup=3)
    with pytest.raises(RuntimeError, match=r"network.2.neuron.warmup: 2 in this model, 3 in the state"):
        one.load_state_dict(two.state_dict())


def test_a_state_without_constants_is_incomplete():
    snn = converted("qcfs")
    weights = {key: value for key, value in snn.state_dict().items() if "neuron" not in key}
    with pytest.raises(RuntimeError, match=r"Missing key.*network.2.neuron.threshold"):
        snn.load_state_dict(weights)
    snn.load_state_dict(weights, strict=False)


# devices, precision, printing


def test_double_and_to():
    snn = converted("qcfs").double()
    logits = snn(IMAGES.double(), 4)
    assert logits.dtype == torch.float64
    torch.testing.assert_close(logits.float(), converted("qcfs")(IMAGES, 4))
    assert {parameter.device.type for parameter in converted("qcfs").to("meta").parameters()} == {"meta"}


def test_printing_is_short():
    assert repr(converted("srp")) == (
        "SpikingModel(Sequential, method=srp, neurons: 2 × ResidualPotential, timesteps=32, class: pre-simulated τ=4)"
    )
