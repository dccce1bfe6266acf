"""Operations: what actual spikes cause, counted for every method, schedule and T as an enumeration counts it."""

import math
from collections import defaultdict

import pytest
import torch
from hydra.utils import instantiate
from spikingjelly.activation_based.op_counter import DispatchCounterMode, SynOpCounter
from test_fan_out import enumerated
from torch import nn

from networks import TRAINING
from snnconv.analysis.operations import count_operations
from snnconv.conversion.method import takes
from snnconv.conversion.methods.cos import convert as cos
from snnconv.conversion.methods.parallel import convert as parallel
from snnconv.conversion.methods.qcfs import convert as qcfs
from snnconv.conversion.methods.srp import convert as srp
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.graph.rewrite import replace_modules
from snnconv.spiking.latency import Latency
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.network import OverTime
from snnconv.spiking.neurons.base import Neuron, Node
from snnconv.spiking.neurons.integrate_fire import IntegrateFire
from snnconv.spiking.recording import recording
from snnconv.spiking.simulation import Timing

WANTED = [1, 2, 5]


def emitted(snn: SpikingModel, images: torch.Tensor, t: int) -> dict[str, torch.Tensor]:
    """|spikes| of each neuron, [*shape], over all images and simulated steps of a run for T = t alone."""
    seen = defaultdict(list)
    snn.prepare(t)
    with recording(snn, lambda path, spikes: seen[path].append(spikes.abs().double().sum((0, 1)))):
        snn(images, t)
    return {path: sum(calls) for path, calls in seen.items()}


def accumulates(kind: str, network: nn.Module, spikes: dict[str, torch.Tensor]) -> dict[str, float]:
    """Every spike with every weight it meets, in the networks of conftest.py."""
    if kind == "plain":  # conv, act, 2×2 pooling, linear 16 → 8, act, linear 8 → 3
        first, second = spikes.values()
        return {"5": 8 * first.sum().item(), "9": 3 * second.sum().item()}
    one, two, three = (
        spikes.values()
    )  # conv, act, block of two convolutions with shortcut, global pooling, linear 4 → 3
    block = network.get_submodule("3")
    return {
        "3.conv1": (one * enumerated(block.conv1, (4, 4, 4))).sum().item(),
        "3.conv2": (two * enumerated(block.conv2, (4, 4, 4))).sum().item(),
        "3.act2": one.sum().item(),
        "6": 3 * three.sum().item(),
    }


@pytest.mark.parametrize("kind", [pytest.param("plain", marks=pytest.mark.long), "residual"])
@pytest.mark.parametrize("schedule", ["step", "layer"])
def test_every_method_is_counted_spike_by_spike(
    compose_config, any_relu_method, exact_network, exact_images, kind, schedule, unchecked
):
    """Binary, signed or multi-level spikes, with warm-up, look-ahead or a network of its own for each T."""
    settings = ["timesteps=5", "levels=4", f"simulate.schedule={schedule}", *TRAINING]
    convert = instantiate(compose_config(f"method={any_relu_method}", *settings).method)
    takes_qcfs = QCFS in (takes(convert) or (QCFS,))
    activation = (lambda: QCFS(4)) if takes_qcfs else nn.ReLU
    images, batches = (
        exact_images(4).double(),
        [(exact_images(64, seed).double(), torch.arange(64) % 3) for seed in (10, 11)],
    )
    snn = convert(exact_network(kind, activation).double(), batches)
    found = count_operations(snn, [(images[:3], None), (images[3:], None)], WANTED)
    assert found.images == 4
    for t in WANTED:
        expected = accumulates(kind, snn.network, emitted(snn, images, t))
        assert {path: 4 * n for path, n in found.accumulates[t].items() if n} == {
            p: n for p, n in expected.items() if n
        }
    assert sum(found.accumulates[5].values()) > 0


@pytest.mark.parametrize("schedule", ["step", "layer"])
def test_spikingjelly_counts_the_same_where_it_can(exact_network, exact_images, schedule):
    """Its counter takes binary inputs of layers: θ = 1, no pooling."""
    ann, images = exact_network("residual", lambda: QCFS(4)), exact_images(3)
    for module in ann.modules():
        if isinstance(module, QCFS):
            module.set_threshold(1.0)
    ann[4] = nn.Identity()
    ann[6] = nn.Linear(64, 3)
    snn = qcfs(ann, [], neuron=IntegrateFire, simulate={"schedule": schedule})
    counter = SynOpCounter()
    with DispatchCounterMode([counter]):
        snn(images, 4)
    found = count_operations(snn, [(images, None)], [4])
    weights = [target.path for target in found.targets if target.macs]
    ours = 3 * sum(found.accumulates[4][path] for path in weights)
    assert ours == counter.get_total() > 0


def fires_always(ann: nn.Module) -> SpikingModel:
    """Every neuron emits one spike in every step."""

    class Always(Node):
        def fire(self, current, v):
            return torch.ones_like(current), v

    network = replace_modules(ann, QCFS, lambda site: OverTime(Neuron(1.0, Always(1.0))))
    return SpikingModel(network, Latency())


def test_inputs_that_all_spike_once_cost_as_many_accumulates_as_macs(exact_network, exact_images):
    """Border included; what is pooled is more: each of the 16 pixels of a channel reaches what their mean reaches."""
    found = count_operations(fires_always(exact_network("residual")), [(exact_images(2), None)], [1, 3])
    for t in (1, 3):
        for target in found.targets[1:]:
            pooled = 16 if target.path == "6" else 1
            assert found.accumulates[t][target.path] == t * (pooled * target.macs + target.additions)


def test_steps_that_are_spent(exact_network, exact_images):
    """srp watches for τ steps before it counts; cos tries the first ρ inputs out before it starts; both update neurons then."""
    images = [(exact_images(2), None)]
    found = count_operations(srp(exact_network(), [], warmup=3), images, [1, 5])
    assert (found.steps, found.shown) == ({1: 4, 5: 8}, {1: 4, 5: 8})
    found = count_operations(cos(exact_network(), [], warmup=3), images, [1, 5])
    assert (found.steps, found.shown) == ({1: 6, 5: 8}, {1: 3, 5: 5})


def test_a_batch_that_is_simulated_in_parts(exact_network, exact_images, monkeypatch):
    """Models with waiting layers simulate a large batch in parts."""
    snn, images = parallel(exact_network().double(), []), exact_images(7).double()
    whole = count_operations(snn, [(images, None)], [2, 4])
    monkeypatch.setattr("snnconv.spiking.time_loop.IN_CACHE", 8)
    assert snn.at_once(4, images.device) == 2
    assert count_operations(snn, [(images, None)], [2, 4]) == whole
    assert sum(whole.accumulates[4].values()) > 0


def test_a_model_that_simulates_more_than_it_says(exact_network, exact_images, monkeypatch):
    """Its steps would be counted as those of others."""
    snn = fires_always(exact_network())
    monkeypatch.setattr(Timing, "chunks", lambda self, timesteps, chunk: [1] * (timesteps + 2))
    with pytest.raises(ValueError, match="took 10 steps, not a multiple of the 3"):
        count_operations(snn, [(exact_images(2), None)] * 2, [3])


def test_an_image_that_is_shown_for_a_while(compose_config, exact_network, exact_images):
    convert = instantiate(compose_config("method=st_bif", "+method.presented=4").method)
    found = count_operations(convert(exact_network(), []), [(exact_images(2), None)], [2, 6])
    assert found.shown == {2: 2, 6: 4}


def test_levels_that_t_steps_tell_apart(compose_config, exact_network, exact_images):
    convert = instantiate(compose_config("method=group", "method.members=3").method)
    assert count_operations(convert(exact_network(), []), [(exact_images(2), None)], [1, 4]).levels == {1: 3, 4: 12}


def test_rounded_weights_are_counted_exactly(exact_images):
    """In bf16 sums beyond 256 would be rounded."""
    ann = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), QCFS(4), nn.Linear(8, 3))
    network = replace_modules(ann, QCFS, lambda site: fires_always(nn.Sequential(QCFS(4))).network[0])
    snn = SpikingModel(network, simulation={"precision": "bf16"})
    found = count_operations(snn, [(exact_images(301), None)], [3])
    assert found.accumulates[3]["3"] == 3 * 8 * 3
    assert found.images == 301


def test_the_first_images_count(exact_network, exact_images):
    snn = qcfs(exact_network(), [], neuron=IntegrateFire)
    images = exact_images(7)
    whole = count_operations(snn, [(images[:5], None)], 3)
    parts = count_operations(snn, [(images[:4], None), (images[4:], None)], 3, images=5)
    assert whole == parts
    assert list(whole.accumulates) == [1, 2, 3]


def test_compiled_code_is_not_passed_by(exact_network, exact_images, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda part, mode: lambda *arguments: pytest.fail("compiled code ran"))
    ann, images = exact_network(), [(exact_images(2), None)]
    counted = [
        count_operations(qcfs(ann, [], neuron=IntegrateFire, simulate={"compile": mode}), images, [2])
        for mode in ("none", "default")
    ]
    assert counted[0] == counted[1]


def test_leaves_nothing_behind(exact_network, exact_images):
    snn, images = qcfs(exact_network("residual"), [], neuron=IntegrateFire), exact_images(3)
    before = snn(images, 3)
    count_operations(snn, [(images, None)], 3)
    assert not any(module._forward_hooks for module in snn.modules())
    assert not any(module._forward_hooks for module in snn.modules())
    assert torch.equal(snn(images, 3), before)


def test_as_dict_names_every_layer(exact_network, exact_images):
    found = count_operations(
        qcfs(exact_network(), [], neuron=IntegrateFire), [(exact_images(2), None)], [1, 2]
    ).as_dict()
    assert found["layers"]["0"] == {"macs": 400, "constant": 400, "accumulates": {"1": 0.0, "2": 0.0}}
    assert list(found["layers"]) == ["0", "2", "5", "7", "9", "(logits)"]
    assert math.isfinite(found["layers"]["5"]["accumulates"]["2"])


@pytest.mark.parametrize(
    ("batches", "options", "message"),
    [
        ([], {}, "there are no images"),
        ([(torch.zeros(0, 1, 4, 4), None)], {}, "there are no images"),
        ([], {"images": 0}, "images=0: must be an integer of at least 1"),
        ([], {"images": 2.5}, "images=2.5"),
        ([], {"timesteps": 0}, "timesteps=0: must be integers"),
    ],
)
def test_mistakes_are_told(exact_network, batches, options, message, unchecked):
    snn = qcfs(exact_network(), [], neuron=IntegrateFire)
    with pytest.raises(ValueError, match=message):
        count_operations(snn, batches, **{"timesteps": 2, **options})
