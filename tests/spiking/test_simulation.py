"""Settings of a simulation: one set of defaults, checked values, and what follows from a method's timing."""

from dataclasses import asdict

import pytest
from hydra.utils import instantiate

from snnconv.spiking.model import SpikingModel
from snnconv.spiking.simulation import Simulation, Timing, wanted_timesteps


def test_the_defaults_are_those_of_the_yaml(compose_config):
    assert asdict(Simulation()) == instantiate(compose_config("precision=float32").simulate)


def test_a_mapping_may_hold_some_settings():
    assert Simulation.of({"chunk": 3}) == Simulation(chunk=3)
    assert Simulation.of(None) == Simulation()
    assert Simulation.of(some := Simulation(exit="confidence")) is some


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "fast"}, "simulate.schedule='fast': must be auto, step or layer"),
        ({"precision": "fp8"}, "simulate.precision='fp8': must be float32, tf32 or bf16"),
        ({"exit": "hurry"}, "simulate.exit='hurry': must be none, confidence, margin or patience"),
        ({"chunk": 0}, "simulate.chunk=0"),
        ({"channels_last": 1}, "simulate.channels_last=1: must be true or false"),
        ({"chunks": 8}, "simulate.chunks: no such setting"),
    ],
)
def test_other_values_are_refused(settings, message, unchecked):
    with pytest.raises(ValueError, match=message):
        Simulation.of(settings)


@pytest.mark.parametrize("timing", [Timing(), Timing(discard=3), Timing(lookahead=5), Timing(lookahead=None)])
@pytest.mark.parametrize("timesteps", [1, 4, 9])
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_chunks_add_up_and_the_first_holds_what_a_layer_needs(timing, timesteps, chunk):
    chunks = timing.chunks(timesteps, chunk)
    assert sum(chunks) == timing.steps(timesteps) >= timing.discard + timesteps
    assert chunks[0] >= min(timing.lookahead or timing.steps(timesteps), timing.steps(timesteps))
    assert all(0 < part <= chunk for part in chunks[1:])


def test_an_image_is_shown_in_equal_parts():
    assert Timing().shares(0, 3) is None
    assert Timing(presented=4).shares(2, 4) == [0.25, 0.25, 0.0, 0.0]


@pytest.mark.parametrize("anytime", [True, False])
def test_rounds(exact_network, anytime):
    model = SpikingModel(exact_network(), timing=Timing(anytime=anytime))
    assert model.rounds(3) == ([[1, 2, 3]] if anytime else [[1], [2], [3]])
    assert model.rounds([8, 2, 2]) == ([[2, 8]] if anytime else [[2], [8]])


@pytest.mark.parametrize("timesteps", [0, [], [0, 4], -3, [2.0], [True]])
def test_timesteps_are_integers_of_at_least_one(timesteps, unchecked):
    with pytest.raises(ValueError, match=r"timesteps=.*integers of at least 1"):
        wanted_timesteps(timesteps)
