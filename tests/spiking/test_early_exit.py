"""Early stop over time against a literal transcription: each image on its own, one step at a time."""

from dataclasses import replace

import pytest
import torch

from snnconv.conversion.methods.qcfs import convert
from snnconv.spiking.early_exit import THRESHOLDS, choose_threshold, early_exit
from snnconv.spiking.neurons.integrate_fire import IntegrateFire
from snnconv.spiking.simulation import Simulation, Timing
from snnconv.spiking.tasks import running_mean

T = 8


@pytest.fixture
def snn(exact_network):
    """Its logits are multiples of ⅛ (first layers) so that confidences are well apart."""
    return convert(
        exact_network("plain", seed=3), [], neuron=IntegrateFire, simulate={"exit": "confidence", "schedule": "step"}
    )


def literally(snn, batches, threshold: float) -> tuple[float, float]:
    """Accuracy and mean timesteps when each image leaves at its first confident step."""
    right, steps = 0, 0
    for images, labels in batches:
        means = running_mean(snn(images, T))
        for n, label in enumerate(labels.tolist()):
            confident = [t for t in range(T) if means[t, n].softmax(-1).max() >= threshold]
            t = confident[0] if confident else T - 1
            right += means[t, n].argmax().item() == label
            steps += t + 1
    return right / batches.count, steps / batches.count


def test_equals_the_literal_early_exit(snn, tiny_batches):
    valid, test = tiny_batches(24, 6), tiny_batches(17, 5)
    early = early_exit(snn, valid, test, T)
    accuracy, mean_timesteps = literally(snn, test, early.threshold)
    assert (early.accuracy, early.mean_timesteps) == (accuracy, mean_timesteps)
    assert (early.full_accuracy, early.full_timesteps) == (literally(snn, test, 2.0)[0], T)


@pytest.mark.parametrize("tolerance", [0.0, 0.1, 1.0])
def test_the_threshold_is_the_quickest_that_costs_at_most_the_tolerance(snn, tiny_batches, tolerance):
    snn.simulation, valid = replace(snn.simulation, exit_tolerance=tolerance), tiny_batches(24, 6)
    accuracy, mean_timesteps = literally(snn, valid, choose_threshold(snn, valid, T))
    least = literally(snn, valid, 2.0)[0] - tolerance - 1e-12
    assert accuracy >= least
    for threshold in THRESHOLDS[::8]:
        other_accuracy, other_timesteps = literally(snn, valid, threshold)
        assert other_accuracy < least or other_timesteps >= mean_timesteps


def test_nobody_leaves_unless_asked(snn, tiny_batches):
    snn.simulation = Simulation()
    assert early_exit(snn, tiny_batches(), tiny_batches(), T) is None


def test_a_model_that_has_to_know_t_cannot_exit(snn, tiny_batches):
    snn.timing = Timing(anytime=False)
    with pytest.raises(ValueError, match="no image can exit early"):
        early_exit(snn, tiny_batches(), tiny_batches(), T)


def test_the_exit_is_a_known_one(exact_network):
    with pytest.raises(ValueError, match=r"simulate\.exit='patience'"):
        convert(exact_network(), [], neuron=IntegrateFire, simulate={"exit": "patience"})


def test_a_report_is_plain_values(snn, tiny_batches):
    report = early_exit(snn, tiny_batches(24, 6), tiny_batches(), T).as_dict()
    assert {type(value) for value in report.values()} <= {int, float}
    assert torch.tensor(list(report.values())).isfinite().all()


def test_compiled_code_meets_few_sizes(exact_network, tiny_batches, monkeypatch):
    """Images leave one by one, but the batch shrinks to powers of two; what comes out is the same."""
    sizes = set()

    def compiled(network, mode):
        return lambda *inputs: sizes.add(len(inputs[0])) or network(*inputs)

    monkeypatch.setattr(torch, "compile", compiled)
    ann = exact_network("plain", seed=3)
    images = next(iter(tiny_batches(100, 100)))[0]
    plain, padded = (convert(ann, [], neuron=IntegrateFire, simulate={"compile": mode}) for mode in ("none", "default"))
    outputs = []
    for snn in (plain, padded):
        steps = snn.run(images, 10)
        logits, kept = [next(steps)], torch.arange(100)
        for n in (90, 63, 40, 33, 32, 9, 8, 2, 1):
            kept = torch.arange(n) * (len(kept) // n)
            logits.append(steps.send(kept))
        outputs.append(logits)
    assert sizes == {100, 64, 32, 16}
    for one, other in zip(*outputs, strict=True):
        assert torch.equal(one, other)
