"""Inputs over time: what each encoder sends, and that a changing input is simulated as a constant one is."""

import re
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from networks import TRAINING
from snnconv.conversion.method import rehearse
from snnconv.conversion.registry import convert
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.models.over_time import MeanOverTime
from snnconv.spiking.accuracy import accuracy_over_time
from snnconv.spiking.encoders.direct import Direct
from snnconv.spiking.encoders.phase import Phase
from snnconv.spiking.encoders.poisson import Poisson
from snnconv.spiking.encoders.ttfs import TimeToFirstSpike
from snnconv.spiking.latency import latency_class

CODES = {"phase": Phase(bits=4), "ttfs": TimeToFirstSpike(window=5)}


def network() -> nn.Module:
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 4, 3), nn.ReLU()]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(16, 3))


IMAGES = torch.rand(40, 2, 8, 8, generator=torch.Generator().manual_seed(1)) * 3 - 1


def fitted(encoder):
    return encoder.fitted([(IMAGES, None)])


@pytest.mark.parametrize("name", CODES)
def test_the_mean_of_a_period_is_the_input_in_as_many_levels(name):
    encoder = fitted(CODES[name])
    period, levels = (4, 16) if name == "phase" else (5, 4)
    sent = encoder.encode(IMAGES, 0, 2 * period)
    low, high = (value.view(-1, 1, 1) for value in (encoder.low, encoder.high))
    for part in (sent[:period], sent[period:]):
        distance = (part.mean(0) - IMAGES).abs() / (high - low)
        assert (
            distance.max() <= (1 if name == "phase" else 0.5) / levels + 1e-5
        )  # the largest value has no code of its own


def test_codes_by_hand():
    encoder = Phase(bits=3, low=0.0, high=8.0)
    bits = encoder.encode(torch.tensor([[5.0]]), 0, 3).flatten() / 8 / 3
    assert bits.tolist() == pytest.approx([0.5, 0.0, 0.125])  # 5 = 101
    spikes = TimeToFirstSpike(window=5, low=0.0, high=4.0).encode(torch.tensor([[4.0, 3, 0]]), 0, 5)[:, 0] / 4
    assert spikes.T.tolist() == [[5, 0, 0, 0, 0], [0, 3.75, 0, 0, 0], [0, 0, 0, 0, 0]]


def test_poisson_spikes_are_seeded_and_have_the_rate_of_the_value():
    encoder = fitted(Poisson(seed=3))
    sent = encoder.encode(IMAGES, 0, 400)
    assert all(len(sent[:, :, channel].unique()) == 2 for channel in range(2))
    torch.testing.assert_close(sent.mean(0), IMAGES, rtol=0, atol=5 * 3 * 0.5 / 20)
    torch.testing.assert_close(fitted(Poisson(seed=3)).encode(IMAGES, 100, 50), sent[100:150], rtol=0, atol=0)
    assert not torch.equal(fitted(Poisson(seed=4)).encode(IMAGES, 0, 1), sent[:1])


def test_every_encoder_builds_and_says_its_class(compose_config, any_encoder):
    encoder = instantiate(compose_config(f"encoder={any_encoder}").encoder)
    snn = convert(network(), IMAGES).encoded(encoder, [(IMAGES, None)])
    assert latency_class(snn.latency.as_dict()) == ("plain" if any_encoder == "direct" else f"{any_encoder} input")
    mean = snn(IMAGES, 80).mean(0)
    assert (mean - convert(network(), IMAGES)(IMAGES, 80).mean(0)).abs().max() < 0.15 * mean.abs().max()


@pytest.mark.parametrize("schedule", ["step", "layer"])
def test_schedules_and_batches_agree(schedule):
    snn = convert(network(), IMAGES, simulation={"schedule": schedule, "chunk": 3}).encoded(fitted(Phase(bits=4)))
    reference = convert(network(), IMAGES, simulation={"event_driven": False}).encoded(fitted(Phase(bits=4)))
    torch.testing.assert_close(snn(IMAGES, 8), reference(IMAGES, 8), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        torch.cat([snn(part, 8) for part in IMAGES.split(7)], 1), snn(IMAGES, 8), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("method", ["mse", "temporal_bias", "signed", "group", "potential_init", "spikingjelly_rate"])
def test_an_input_that_is_the_same_in_every_step_is_a_constant_one(method):
    snn = convert(network(), IMAGES, method=method)
    over_time = IMAGES.expand(6, *IMAGES.shape)
    torch.testing.assert_close(snn(over_time, over_time=True), snn(IMAGES, 6), rtol=0, atol=0)


def test_every_method_takes_inputs_that_change_or_the_page_says_so(
    any_method, compose_config, exact_network, exact_images
):
    """Those that do give the same for an input that is there in every step as for a constant one."""
    page = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
    constant = re.findall(r"`(\w+)`", page.partition("take the same input in every step")[0].rpartition(". ")[2])
    method = instantiate(compose_config(f"method={any_method}", "timesteps=6", "levels=4", *TRAINING).method)
    batches, snn = [(exact_images(8), torch.arange(8) % 3)], None
    for activation in (lambda: QCFS(4), nn.ReLU):
        with suppress(ValueError):
            snn = snn or rehearse(method, exact_network("plain", activation), batches)
    if snn is None:
        assert any_method in ("finetune", "spikingjelly_sta")  # it trains; it converts other layers
        return
    images = exact_images(5)
    over_time = images.expand(6, *images.shape)
    assert (any_method in constant) == (not snn.timing.changing_inputs)
    if any_method in constant:
        with pytest.raises(ValueError, match=f"{snn.method or 'this method'} needs the same input in every step"):
            snn(over_time, over_time=True)
    else:
        torch.testing.assert_close(snn(over_time, over_time=True), snn(images, 6), rtol=1e-5, atol=1e-6)


def test_methods_that_count_on_a_constant_input_say_so():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    from snnconv.conversion.preparation import prepare

    snn = convert(prepare(model, levels=4, calibration=torch.rand(50, 4)), torch.rand(50, 4), method="srp", warmup=4)
    with pytest.raises(ValueError, match="encoder=poisson: srp needs the same input in every step"):
        snn.encoded(Poisson(), [(torch.rand(50, 4), None)])
    with pytest.raises(ValueError, match="over_time: srp needs the same"):
        snn(torch.rand(6, 5, 4), over_time=True)


def test_samples_that_leave_early_leave_their_inputs_behind():
    snn = convert(network(), IMAGES).encoded(fitted(Phase(bits=4)))
    whole, keep = snn(IMAGES, 6), torch.tensor([3, 5, 30])
    steps = snn.run(IMAGES, 6)
    next(steps)
    rest = [steps.send(keep), *steps]
    torch.testing.assert_close(torch.cat(rest), whole[1:, keep], rtol=1e-4, atol=1e-5)


# frames


FRAMES = torch.rand(40, 5, 2, 8, 8, generator=torch.Generator().manual_seed(2))


def test_a_network_of_the_mean_frame_reads_a_frame_in_each_step():
    """By hand: the same frames as a batch for each step to the network without the mean; after the last comes the first."""
    snn = convert(MeanOverTime(network()), FRAMES)
    plain = convert(network(), FRAMES.mean(1))
    frames = FRAMES[:, [0, 1, 2, 3, 4, 0, 1]].movedim(1, 0)
    torch.testing.assert_close(snn(FRAMES, 7), plain(frames, over_time=True), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(snn(frames[:5], over_time=True), snn(FRAMES, 5), rtol=0, atol=0)
    assert latency_class(snn.latency.as_dict()) == "frames input"
    assert not torch.allclose(snn(FRAMES, 5), snn(FRAMES.flip(1), 5))
    with pytest.raises(ValueError, match="encoder=phase: the inputs are already frames"):
        snn.encoded(Phase())
    assert snn.encoded(Direct()).latency.encoding == "frames"


def test_frames_are_evaluated_as_any_other_data():
    snn, labels = convert(MeanOverTime(network()), FRAMES), torch.zeros(40).long()
    curve = accuracy_over_time(snn, [(FRAMES, labels)], [1, 5])
    means = snn(FRAMES, 5).double().cumsum(0)
    assert curve.correct == {t: int((means[t - 1].argmax(-1) == 0).sum()) for t in (1, 5)}


def test_wrong_inputs_over_time_are_told():
    snn = convert(network(), IMAGES)
    with pytest.raises(ValueError, match=r"inputs over time \[3, 40, 2, 8, 8\]: 3 steps, timesteps=4"):
        snn(IMAGES.expand(3, *IMAGES.shape), 4, over_time=True)
    with pytest.raises(ValueError, match=r"expects \[N, 2, H, W\]"):
        snn(IMAGES, 4, over_time=True)
    for bad in (lambda: Phase(bits=0), lambda: TimeToFirstSpike(window=1), lambda: Poisson(low=1.0, high=0.0)):
        with pytest.raises(ValueError, match="encoder"):
            bad()
    with pytest.raises(ValueError, match="needs calibration inputs to set its range"):
        Poisson().fitted([])
