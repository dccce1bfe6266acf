"""Quantized networks without spikes: against hand-written formulas, against torchao's own flow, and against themselves."""

import json
import math
import warnings
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from networks import Net
from snnconv.analysis.costs import Costs
from snnconv.conversion import rules
from snnconv.data.batches import Batches
from snnconv.data.digits import digits
from snnconv.data.splits import Splits
from snnconv.hardware.baselines import observers, ptq
from snnconv.hardware.baselines.cost import energy, size, targets
from snnconv.hardware.baselines.observers import (
    OBSERVERS,
    Integers,
    PerImage,
    activation_observer,
    settled,
    weight_observer,
)
from snnconv.hardware.baselines.ptq import dynamic, static
from snnconv.hardware.baselines.qat import qat
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.activations.relu import ReLU
from snnconv.nn.graph.folding import fold_batchnorm
from snnconv.results.page import quantized
from snnconv.results.records import read_baselines
from snnconv.runtime.run import TrainingError
from snnconv.spiking.accuracy import accuracy


def small(activation, norms: bool = True) -> nn.Sequential:
    """Images [N, 1, 8, 8] → [N, 10]."""
    made = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), activation(), nn.AvgPool2d(2)]
    made += [nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), activation(), nn.AvgPool2d(2), nn.Flatten()]
    return nn.Sequential(*(m for m in made if norms or not isinstance(m, nn.BatchNorm2d)), nn.Linear(64, 10))


class Given(Batches):
    """One batch, or none, of images as they are."""

    def __init__(self, images: torch.Tensor) -> None:
        self.given, self.labels, self.batch_size = (
            images,
            torch.zeros(len(images), dtype=torch.int64),
            max(len(images), 1),
        )

    def __iter__(self):
        return iter([(self.given, self.labels)] if len(self.given) else [])


def given(images: torch.Tensor) -> Splits:
    return Splits(*[Given(images)] * 4)


@pytest.fixture(scope="module")
def data() -> Splits:
    return digits(num_classes=10, input_shape=[1, 8, 8], mean=[0.287], std=[0.354], test_fraction=0.2, valid=0,
                  calibration=200, batch_size=64, seed=0, device="cpu")  # fmt: skip


def trained(data: Splits, activation) -> nn.Module:
    torch.manual_seed(0)
    network = small(activation)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(4):
        data.train.set_epoch(epoch)
        for images, labels in data.train:
            optimizer.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            optimizer.step()
    return network.eval()


@pytest.fixture(scope="module")
def networks(data):
    return {"relu": trained(data, ReLU), "qcfs": trained(data, partial(QCFS, 8, 4.0))}


# by hand


def by_hand(x: torch.Tensor, low, high, integers: Integers) -> torch.Tensor:
    """Integers times their scale, in float64: round to even, clip, zero always exact."""
    x, low, high = (torch.as_tensor(value).double() for value in (x, low, high))
    low, high = low.clamp(max=0), high.clamp(min=0)
    if integers.symmetric:
        q = 2 ** (integers.bits - 1) - 1
        scale = torch.maximum(-low, high) / q
        return (x / scale).round().clamp(-q, q) * scale
    most = 2**integers.bits - 1
    scale = (high - low) / most
    zero = (-low / scale).round()
    return ((x / scale).round() + zero).clamp(0, most).sub(zero) * scale


def slow(network: nn.Sequential, calibration_images, images, weights: Integers, values: Integers, per_channel: bool):
    """`static` with min-max ranges on conv → ReLU → pool → conv → ReLU → pool → flatten → linear, layer by layer."""

    def run(x, seen=None, ranges=None):
        for number, layer in enumerate(network):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                w = layer.weight.detach()
                rows = w.flatten(1) if per_channel else w.flatten().unsqueeze(0)
                low, high = (end.view(-1, *[1] * (w.dim() - 1)) for end in rows.aminmax(dim=1))
                x = meet(x, number, seen, ranges)
                w = w.double() if ranges is None else by_hand(w, low, high, weights)
                bias = layer.bias.detach().double()
                x = F.linear(x, w, bias) if isinstance(layer, nn.Linear) else F.conv2d(x, w, bias, padding=1)
            elif isinstance(layer, nn.ReLU):
                x = meet(layer(x), number, seen, ranges)
            else:
                x = layer(x)
        return x

    def meet(x, number, seen, ranges):
        if seen is not None:
            seen[number] = (x.min(), x.max())
        return x if ranges is None else by_hand(x, *ranges[number], values)

    seen: dict = {}
    run(calibration_images.double(), seen=seen)
    return run(images.double(), ranges=seen)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
@pytest.mark.parametrize("bits", [8, 3])
def test_static_equals_the_formula_written_out(bits, scheme, per_channel):
    torch.manual_seed(0)
    network = small(nn.ReLU, norms=False).eval()
    images = torch.randn(6, 1, 8, 8)
    settings = {"weights": scheme, "activations": scheme, "per_channel": per_channel, "weight_observer": "min_max"}
    found = static(network, given(images), weight_bits=bits, activation_bits=bits, image_bits=bits, **settings)
    integers = Integers(bits, scheme == "symmetric")
    test = torch.randn(5, 1, 8, 8)
    expected = slow(network, images, test, integers, integers, per_channel)
    torch.testing.assert_close(found.network(test), expected.float(), rtol=1e-4, atol=1e-5)
    assert (found.network(test) - network(test)).abs().max() > 1e-3  # it is another network


@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
def test_static_equals_what_torchao_makes_of_an_exported_network(scheme):
    """torch.export → prepare_pt2e → convert_pt2e with a quantizer for the same places: its integers, its decomposed ops."""
    from torchao.quantization.pt2e.observer import MinMaxObserver, PerChannelMinMaxObserver
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, Quantizer

    low, high, symmetric = (-7, 7, True) if scheme == "symmetric" else (0, 15, False)
    spec = partial(QuantizationSpec, dtype=torch.int8, quant_min=low, quant_max=high)
    values = spec(observer_or_fake_quant_ctr=MinMaxObserver,
                  qscheme=torch.per_tensor_symmetric if symmetric else torch.per_tensor_affine)  # fmt: skip
    weights = QuantizationSpec(torch.int8, PerChannelMinMaxObserver, -7, 7, torch.per_channel_symmetric, 0)

    class Here(Quantizer):
        def annotate(self, model):
            for node in model.graph.nodes:
                if str(node.target) in ("aten.conv2d.default", "aten.linear.default"):
                    ends = {node.args[0]: values, node.args[1]: weights}
                    node.meta["quantization_annotation"] = QuantizationAnnotation(ends, None, _annotated=True)
            return model

        def validate(self, model):
            pass

    torch.manual_seed(0)
    network, images, test = small(nn.ReLU, norms=False).eval(), torch.randn(6, 1, 8, 8), torch.randn(6, 1, 8, 8)
    network[2] = network[5] = nn.Identity()  # pooled values would be quantized twice here, and once there
    network[-1] = nn.Linear(16 * 64, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = prepare_pt2e(torch.export.export(network, (images,)).module(), Here())
        prepared(images)
        theirs = convert_pt2e(prepared)(test)
    settings = {"weight_observer": "min_max", "activations": scheme, "image_bits": 4}
    ours = static(network, given(images), weight_bits=4, activation_bits=4, **settings).network(test)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_dynamic_takes_the_range_of_each_image():
    images = torch.randn(3, 2, 4, 4) * torch.tensor([1.0, 10.0, 0.1]).view(3, 1, 1, 1)
    for integers in (Integers(4, True), Integers(5, False)):
        expected = torch.stack([by_hand(image, image.min(), image.max(), integers) for image in images])
        torch.testing.assert_close(PerImage(integers)(images), expected.float(), rtol=1e-4, atol=1e-5)


def test_dynamic_answers_do_not_depend_on_the_batch(data):
    """Without pooling, whose means of integers lie halfway between two, where float noise decides."""
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)]
    network = dynamic(nn.Sequential(*layers).eval(), data, weight_bits=4, activation_bits=4).network
    images = torch.randn(6, 1, 8, 8)
    alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(network(images), alone, rtol=1e-4, atol=1e-5)


# ranges


@pytest.mark.parametrize("name", OBSERVERS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_an_observer_follows_its_formula(name, symmetric):
    """Of values that are never negative, as activations are; affine ranges begin at 0."""
    batches = [torch.randn(40, 60, generator=torch.Generator().manual_seed(n)).relu() for n in range(3)]
    integers = Integers(4, symmetric)
    observer = activation_observer(name, integers, momentum=0.75, percent=98.0, per_image=100)
    for batch in batches:
        observer(batch)
    every, levels = torch.cat(batches).flatten(), 7 if symmetric else 15
    highest = [batch.max().item() for batch in batches]
    top = {
        "min_max": every.max(),
        "moving_average": 0.75**2 * highest[0] + 0.75 * 0.25 * highest[1] + 0.25 * highest[2],
        "percentile": every.kthvalue(math.ceil(0.98 * len(every))).values,
        "mse": rules.least_squares(every, levels),
        "kl": rules.kullback_leibler(every, levels),
    }[name]
    quantize = settled(observer)
    assert quantize.scale.item() == pytest.approx(float(top) / levels, rel=1e-5)
    assert quantize.zero_point.item() == 0


def test_an_affine_range_has_two_sides_and_a_rule_is_told_its_share():
    values = torch.cat([torch.linspace(-1, 0, 1001), torch.linspace(0, 3, 3001)])
    quantize = settled(observing("percentile", Integers(4, False), values.unsqueeze(0), percent=99.0))
    low, high = -((-values).clamp_min(0).kthvalue(3962).values), values.clamp_min(0).kthvalue(3962).values
    assert quantize.scale.item() == pytest.approx((high - low).item() / 15)
    assert quantize.zero_point.item() == round(-low.item() / quantize.scale.item())


def observing(name: str, integers: Integers, values: torch.Tensor, **changes):
    observer = activation_observer(name, integers, **{"momentum": 0.9, "percent": 99.9, "per_image": 10**6, **changes})
    observer(values)
    return observer


@pytest.mark.parametrize("bits", [2, 5])
def test_least_squares_of_all_channels_at_once_is_that_of_each(bits):
    weights = torch.randn(3, 3, 3, 3)
    for symmetric in (True, False):
        observer = weight_observer("mse", Integers(bits, symmetric), per_channel=True)
        observer(weights)
        alone = weight_observer("mse", Integers(bits, symmetric), per_channel=False)
        alone(weights[1:2])
        torch.testing.assert_close(settled(observer).scale[1:2], settled(alone).scale)
    q = 2 ** (bits - 1) - 1
    expected = [rules.least_squares(channel.abs().flatten(), q) / q for channel in weights]
    symmetric = weight_observer("mse", Integers(bits, True), per_channel=True)
    symmetric(weights)
    torch.testing.assert_close(settled(symmetric).scale, torch.stack(expected), rtol=1e-4, atol=0)


def test_values_are_drawn_evenly_and_extremes_are_kept():
    batch = torch.arange(1000.0).view(2, 500)
    observer = activation_observer("mse", Integers(8, False), momentum=0.9, percent=99.9, per_image=10)
    observer(batch)
    samples = torch.cat(observer.samples, 1)
    assert samples.shape == (1, 2 + 2 * 10)
    assert {0.0, 999.0} <= set(samples.flatten().tolist())


def test_a_layer_of_zeros_stays_zero():
    quantize = settled(observing("mse", Integers(4, False), torch.zeros(3, 5)))
    assert quantize(torch.zeros(3, 5)).eq(0).all()
    weights = torch.zeros(2, 3)
    weights[0] = torch.tensor([0.5, -1.0, 0.25])
    observer = weight_observer("mse", Integers(8, True), True)
    observer(weights)
    assert settled(observer)(weights)[1].eq(0).all()


# places


def test_every_activation_image_and_pooled_value_is_quantized_once(networks, data):
    images, _ = next(iter(data.test))
    found = static(networks["relu"], data, activation_bits=3, image_bits=4)
    seen = {}
    for path, module in found.network.named_modules():
        if path.endswith("_values"):
            module.register_forward_hook(lambda m, i, o, path=path: seen.update({path: o}))
    found.network(images)
    assert list(seen) == ["input_1_values", "2_relu_values", "3_values", "6_relu_values", "7_values"]
    counts = [len(values.unique()) for values in seen.values()]
    assert counts[0] <= 16
    assert all(2 < count <= 8 for count in counts[1:])
    assert found.ranges == 5


def test_weights_hold_as_many_values_as_their_bits_say(networks, data):
    for kind in ("relu", "qcfs"):
        network = static(networks[kind], data, weight_bits=3).network
        for layer in (m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)):
            assert all(len(channel.unique()) <= 7 for channel in layer.weight)


def test_theta_is_the_range_of_a_trained_activation(networks, data):
    """15 levels of 4 bits; with own_levels the 8 that it was trained with, so that only weights, image and pooling change."""
    original = [m for m in networks["qcfs"].modules() if isinstance(m, QCFS)]
    for own, levels in ((False, 15), (True, 8)):
        found = static(networks["qcfs"], data, activation_bits=4, own_levels=own)
        sites = [m for m in found.network.modules() if isinstance(m, QCFS)]
        assert [(m.levels, m.threshold.item()) for m in sites] == [(levels, m.threshold.item()) for m in original]
        assert found.ranges == 5
    exact = static(networks["qcfs"], data, weight_bits=16, image_bits=16, activation_bits=16, own_levels=True)
    images, _ = next(iter(data.test))
    same = exact.network(images).argmax(1) == networks["qcfs"](images).argmax(1)
    assert same.float().mean() > 0.98  # a neuron on the edge of a level may take the other
    observed = static(networks["qcfs"], data, activation_bits=4, from_theta=False)
    assert type(observed.network.get_submodule("2")).__name__ == "ClippedReLU"


def test_a_shortcut_is_added_at_full_width(fresh_network, exact_images):
    """Quantized is what its source puts out, not the sum."""
    found = static(fresh_network("residual").eval(), given(exact_images(9)), from_theta=False)
    places = [path for path, _ in found.network.named_modules() if path.endswith("_values")]
    assert places == ["input_1_values", "2_values", "3_act1_values", "3_act2_values", "4_values"]


def test_relu_calls_and_shared_relus_get_a_range_each():
    relu = nn.ReLU()
    network = Net(lambda net, x: net.c(net.r(net.b(F.relu(net.a(x))))), a=nn.Linear(4, 5), b=nn.Linear(5, 5), r=relu,
                  c=nn.Linear(5, 2)).eval()  # fmt: skip
    assert static(network, given(torch.randn(9, 4))).ranges == 3


def test_weights_that_would_stay_float_are_named():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.ConvTranspose2d(2, 1, 3)).eval()
    with pytest.raises(
        ValueError, match=r"^2 \(ConvTranspose2d\): its weights cannot be quantized; supported are Conv1d"
    ):
        static(network, given(torch.randn(2, 1, 8, 8)))


# accuracy


def test_more_bits_are_better_and_eight_are_nearly_free(networks, data):
    for kind, ann in networks.items():
        before = {name: value.clone() for name, value in ann.state_dict().items()}
        exact = accuracy(ann, data.test)
        for make in (static, dynamic):
            reached = {bits: accuracy(make(ann, data, weight_bits=bits, activation_bits=bits).network, data.test)
                       for bits in (8, 2)}  # fmt: skip
            assert reached[8] > exact - 0.02, (kind, make)
            assert reached[8] > reached[2] + 0.03, (kind, make)
        assert all(torch.equal(before[name], value) for name, value in ann.state_dict().items())


@pytest.mark.parametrize("kind", ["relu", "qcfs"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_training_with_few_bits_helps(networks, data, kind, per_channel):
    settings = {"weight_bits": 2, "activation_bits": 2, "per_channel": per_channel}
    before = accuracy(static(networks[kind], data, **settings).network, data.test)
    found = qat(networks[kind], data, epochs=3, lr=0.02, **settings)
    assert not found.network.training
    assert accuracy(found.network, data.test) > before + 0.02
    for layer in (m for m in found.network.modules() if isinstance(m, nn.Conv2d | nn.Linear)):
        assert len(layer.weight.unique()) <= 3 * (len(layer.weight) if per_channel else 1)
    assert any(isinstance(m, nn.BatchNorm2d) for m in found.network.modules()) == per_channel


def test_a_batch_norm_that_stays_is_a_factor_of_the_scales(networks, data):
    """Folding batch norms after a training with unfolded ones gives the same integers with other scales."""
    found = static(networks["relu"], data, weight_bits=4)
    live = ptq.calibrated(networks["relu"], data.calibration, found.settings)
    layer, norm, folded = live.network.get_submodule("0"), networks["relu"][1], found.network.get_submodule("0")
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    assert (factor > 0).all()
    torch.testing.assert_close(folded.weight, layer.weight * factor.view(-1, 1, 1, 1), rtol=1e-3, atol=1e-5)


def test_training_that_diverges_says_what_to_try(networks, data):
    with pytest.raises(TrainingError, match=r"not finite in epoch 1; try a smaller baseline.lr"):
        qat(networks["relu"], data, epochs=1, lr=1e18)


def branching() -> nn.Module:
    """A network whose forward pass branches on the shape of its input, and calls functions."""

    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.linear = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(64, 10)

        def forward(self, x):
            if x.dim() == 3:
                x = x[None]
            return self.linear(F.avg_pool2d(F.relu(self.norm(self.conv(x))), 2).flatten(1))

    return Branching().eval()


@pytest.mark.parametrize("quantize", [dynamic, static])
def test_a_forward_pass_that_must_be_captured(quantize, data):
    torch.manual_seed(0)
    ann, images = branching(), next(iter(data.test))[0]
    modules = nn.Sequential(ann.conv, ann.norm, nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), ann.linear)
    expected, quantized = quantize(modules, data), quantize(ann, data)
    assert torch.allclose(quantized.network(images), expected.network(images), atol=1e-5)
    assert size(ann, quantized, (1, 8, 8)) == size(modules, expected, (1, 8, 8))
    assert [each.macs for each in targets(ann, (1, 8, 8))] == [each.macs for each in targets(modules, (1, 8, 8))]


# what it takes


def test_size_by_hand(networks, data):
    """72 + 1152 + 640 weights; 34 channels, so 34 scales and, batch norms folded, 34 biases; 5 ranges."""
    ann = networks["relu"]
    found = static(ann, data, weight_bits=4, activations="symmetric")
    assert size(ann, found, (1, 8, 8)) == {"size_bytes": 1864 / 2 + 4 * (34 + 34 + 5), "float_bytes": 4 * (1864 + 34.0)}
    affine = replace(found, settings=ptq.Settings(weight_bits=4, weights="affine"))
    assert size(ann, affine, (1, 8, 8))["size_bytes"] == 1864 / 2 + 4 * (34 + 2 * (34 + 5))
    one = replace(found, settings=ptq.Settings(per_channel=False, activations="symmetric"), ranges=0)
    assert size(ann, one, (1, 8, 8))["size_bytes"] == 1864 + 4 * (34 + 3)


def test_energy_by_hand(networks, data):
    """First layer 72·64 − what meets padding; b bits are b shifted accumulates, never more than a MAC; weights at their bits."""
    table = Costs(mac=4.0, accumulate=1.0, memory=0.5, weight_bits=32, activation_bits=16)
    for ann in networks.values():
        first, second, last = (target for target in targets(ann, [1, 8, 8]) if target.macs)
        assert (first.macs, second.macs, last.macs) == (8 * 22 * 22, 8 * 16 * 10 * 10, 640)
        assert (first.constant, second.constant) == (first.macs, 0)
        found = energy(ann, static(ann, data, weight_bits=4, activation_bits=3), [1, 8, 8], {"t": table})
        neurons = 8 * 64 + 16 * 16 + 10
        full = first.macs * (4 + 0.5 * (4 + 16))
        few = (second.macs + last.macs) * (3 + 0.5 * (4 + 3))
        assert found["energy"] == {"t": pytest.approx(full + few + neurons * 0.5 * 3)}
        macs = first.macs + second.macs + last.macs
        assert found["ann_energy"] == {"t": pytest.approx(macs * (4 + 0.5 * 48) + neurons * 0.5 * 16)}


def test_what_cannot_be_counted_has_no_energy(caplog):
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 2)).eval()
    found = static(network, given(torch.randn(4, 1, 8, 8)))
    assert found.ranges == 2  # what is chosen from integers is an integer
    assert energy(network, found, [1, 8, 8], {"t": Costs(1, 1)}) == {"energy": None, "ann_energy": None}
    assert "No energy: 2 (MaxPool2d)" in caplog.text


# mistakes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight_bits": 1}, "baseline.weight_bits=1: must be an integer number of bits from 2 to 16"),
        ({"activation_bits": 17}, "baseline.activation_bits=17: must be an integer number of bits from 2 to 16"),
        ({"image_bits": 4.0}, "baseline.image_bits=4.0: must be an integer number"),
        ({"observer": "median"}, "baseline.observer='median': must be min_max, moving_average, percentile, mse or kl"),
        ({"weight_observer": "kl"}, "baseline.weight_observer='kl': must be min_max or mse"),
        ({"weights": "signed"}, "baseline.weights='signed': must be symmetric or affine"),
        ({"momentum": 1.0}, "baseline.momentum=1.0: must be at least 0 and below 1"),
        ({"percent": 0}, "baseline.percent=0: must be above 0"),
        ({"per_image": 0}, "baseline.per_image=0: must be an integer of at least 1"),
        ({"own_levels": True, "activation_bits": 3}, "has only 7 levels above 0, but this network was trained with 8"),
    ],
)
def test_settings_that_make_no_sense_say_what_would(networks, data, settings, message, unchecked):
    with pytest.raises(ValueError) as error:
        static(networks["qcfs"], data, **settings)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "baseline.epochs=0: must be an integer of at least 1; for no training use baseline=ptq_static"),
        ({"lr": 0}, "baseline.lr=0: must be a positive number"),
        ({"average": 1.5}, "baseline.momentum=1.5"),
    ],
)
def test_training_settings_that_make_no_sense_say_what_would(networks, data, settings, message):
    with pytest.raises(ValueError) as error:
        qat(networks["relu"], data, **settings)
    assert message in str(error.value)


def test_no_calibration_images(networks):
    with pytest.raises(
        ValueError, match=r"there are none; set data.calibration to 100 or more, or choose baseline=ptq_dynamic"
    ):
        static(networks["relu"], given(torch.zeros(0, 1, 8, 8)))


def test_a_rule_that_finds_no_range_names_the_place():
    network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)).eval()
    network[0].bias.data.fill_(-100.0)
    network[0].bias.data[0] = 1.0
    with pytest.raises(ValueError, match=r"^1: almost every value is 0, .* observer=min_max or a higher percent"):
        static(network, given(torch.randn(50, 64)), observer="percentile", percent=90.0)


# told


BASELINE = {
    "baseline": "ptq_static", "settings": {"weight_bits": 4, "activation_bits": 3, "observer": "kl"}, "accuracy": 0.75,
    "ann_accuracy": 0.8, "weight_bits": 4, "activation_bits": 3, "size_bytes": 2048.0, "energy": {"int8_45nm": 2e6},
    "images_tested": 100, "model": "mlp", "data": "digits", "levels": 8, "seed": 0, "precision": "float32",
    "calibration_images": 50, "select": "best", "network": {"weights": "w", "recipe": "r", "activation": "QCFS"},
    "wall_seconds": {},
}  # fmt: skip


def test_baselines_of_a_run_are_found_from_any_of_its_evaluations(tmp_path):
    (tmp_path / "ann.json").write_text("{}")
    for name, changes in {"1": {}, "2": {"accuracy": 0.5, "settings": {"observer": "mse"}}}.items():
        folder = tmp_path / "evaluations" / "ptq_static" / name
        folder.mkdir(parents=True)
        (folder / "baseline.json").write_text(json.dumps({**BASELINE, **changes}))
    (tmp_path / "evaluations" / "qcfs" / "3").mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "evaluations" / "qcfs" / "3"):
        lines = quantized(folder)
        assert [(line.label, line.one.accuracy) for line in lines] == [
            ("ptq_static W4A3 (observer=kl)", 0.75), ("ptq_static W4A3 (observer=mse)", 0.5)
        ]  # fmt: skip
    assert quantized(tmp_path / "evaluations" / "none") != []
    assert read_baselines([tmp_path / "nowhere"]) == []


def test_a_damaged_baseline_is_named_and_no_report_is_lost(tmp_path, caplog):
    (tmp_path / "baseline.json").write_text(json.dumps({"baseline": "qat"}))
    with pytest.raises(ValueError, match=r"baseline.json: has no seed, .*accuracy, weight_bits"):
        read_baselines([tmp_path])
    assert quantized(tmp_path) == []
    assert "The report has no quantized networks" in caplog.text


def test_folding_comes_first():
    """The weights that are quantized are those that a deployer has."""
    torch.manual_seed(0)
    network = small(nn.ReLU)
    network.train()(torch.randn(32, 1, 8, 8))
    images = torch.randn(9, 1, 8, 8)
    found = static(network.eval(), given(images), weight_bits=3).network
    observer = observers.weight_observer("mse", Integers(3, True), True)
    observer(fold_batchnorm(network)[0].weight)
    torch.testing.assert_close(found.get_submodule("0").weight, settled(observer)(fold_batchnorm(network)[0].weight))
