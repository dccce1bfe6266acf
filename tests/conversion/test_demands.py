"""Errors that would stop a run after its training are raised before it."""

import pytest
import torch
from torch import nn

import snnconv
from snnconv.conversion.demands import simulation
from snnconv.nn.activations.qcfs import QCFS
from snnconv.runtime import compilation
from snnconv.runtime.checkpoint import require_savable


class Broken(nn.Module):
    """Takes a batch of one timestep alone."""

    def forward(self, x):
        return x.view(2, 3)


def converted(last: nn.Module, **simulation) -> snnconv.SpikingModel:
    network = nn.Sequential(nn.Linear(4, 6), QCFS(4, 1.0), nn.Linear(6, 3))
    snn = snnconv.convert(network, method="qcfs", simulation=simulation)
    snn.network = nn.Sequential(*snn.network, last)
    return snn


def test_a_simulation_that_fails_is_told_and_nothing_stays_changed(caplog):
    images = torch.rand(8, 4)
    snn = converted(Broken(), schedule="layer")
    state = torch.get_rng_state()
    with pytest.raises(
        ValueError, match=r"simulate\.schedule=layer: cannot be simulated .*choose simulate\.schedule=step"
    ):
        simulation(32)(snn, images)
    assert snn.simulation.schedule == "layer"
    assert torch.equal(torch.get_rng_state(), state)
    snn = converted(Broken())  # on a CPU it goes step by step
    simulation([1, 4])(snn, images)
    assert "simulate.schedule=layer: cannot be simulated" in caplog.text
    assert snn.simulation.schedule == "auto"
    simulation(2)(converted(nn.Identity(), schedule="layer"), images)


def test_a_compiler_is_asked_for_only_where_something_is_compiled(monkeypatch):
    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", lambda: "".missing)
    with pytest.raises(AttributeError):
        compilation.require_compiler("")

    def missing():
        raise RuntimeError("no compiler")

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", missing)
    simulation(2)(converted(nn.Identity()), torch.rand(2, 4))
    with pytest.raises(ValueError, match=r"no C\+\+ compiler; install g\+\+, or use simulate\.compile=none"):
        simulation(2)(converted(nn.Identity(), compile="default"), torch.rand(2, 4))


def test_a_state_that_no_file_holds_is_told_before_training():
    class Counting(nn.Linear):
        def get_extra_state(self):
            return {"calls": 3}

    require_savable(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="Sequential: its state cannot be saved"):
        require_savable(nn.Sequential(Counting(2, 2)))


@pytest.mark.parametrize("inputs", ["given", "shape of a layer", "size that fits"])
def test_the_comparison_at_the_door_runs_with_inputs_and_without(inputs):
    class Counting(nn.Module):
        """Computes something else at every call."""

        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(28 * 28, 3) if inputs == "size that fits" else nn.Linear(4, 3)
            self.first = nn.Conv2d(1, 1, 1) if inputs == "size that fits" else nn.Identity()
            self.act, self.last = QCFS(4, 1.0), nn.Linear(3, 3)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return self.last(self.act(self.layer(self.first(x).flatten(1)))) + self.calls

    with pytest.raises(ValueError, match=r"in eval mode|differs"):
        snnconv.convert(Counting(), torch.rand(8, 4) if inputs == "given" else None, method="qcfs")


def test_without_a_known_shape_the_comparison_is_said_to_be_left_out(caplog):
    network = nn.Sequential(
        nn.Flatten(), nn.Unflatten(1, (3, 5, 7)), nn.Conv2d(3, 2, 3), QCFS(4, 1.0), nn.Flatten(), nn.Linear(30, 3)
    )
    snnconv.convert(network, method="qcfs")
    assert "Sequential: not compared with its graph" in caplog.text
    caplog.clear()
    snnconv.convert(nn.Sequential(nn.Linear(4, 6), QCFS(4, 1.0), nn.Linear(6, 3)), method="qcfs")
    assert not caplog.text
