"""Early stop over time against a literal transcription: each image on its own, one step at a time."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

import snnconv
from snnconv.conversion.checks import check
from snnconv.conversion.methods.qcfs import convert
from snnconv.conversion.registry import find
from snnconv.conversion.rules import least_squares
from snnconv.data.batches import Batches
from snnconv.spiking.early_exit import NEVER, choose_threshold, early_exit, require_exit
from snnconv.spiking.exit_rules import RULES, Patience
from snnconv.spiking.neurons.integrate_fire import IntegrateFire
from snnconv.spiking.simulation import Simulation, Timing
from snnconv.spiking.tasks import Dense, Multilabel, Regress, running_mean

T = 8


@pytest.fixture
def snn(exact_network):
    """Its logits are multiples of ⅛ (first layers) so that confidences are well apart."""
    return convert(
        exact_network("plain", seed=3), [], neuron=IntegrateFire, simulate={"exit": "confidence", "schedule": "step"}
    )


def unchanged(means, t: int) -> int:
    """For how many steps the prediction of step t has been that of the steps before."""
    predictions = means[: t + 1].argmax(-1).tolist()
    return next((k for k in range(1, t + 1) if predictions[t - k] != predictions[t]), t + 1) - 1


# Of one image: the score after step t, from its mean outputs [T, K].
SCORES = {
    "confidence": lambda means, t: means[t].softmax(-1).max().item(),
    "margin": lambda means, t: (t + 1) * (means[t].sort().values[-1] - means[t].sort().values[-2]).item(),
    "patience": unchanged,
}


def literally(snn, batches, threshold: float) -> tuple[float, float]:
    """Accuracy and mean timesteps when each image leaves at its first certain step."""
    right, steps, score = 0, 0, SCORES[snn.simulation.exit]
    for images, labels in batches:
        means = running_mean(snn(images, T))
        for n, label in enumerate(labels.tolist()):
            certain = [t for t in range(T) if score(means[:, n], t) >= threshold]
            t = certain[0] if certain else T - 1
            right += means[t, n].argmax().item() == label
            steps += t + 1
    return right / batches.count, steps / batches.count


@pytest.mark.parametrize("rule", RULES)
def test_equals_the_literal_early_exit(snn, tiny_batches, rule):
    snn.simulation = replace(snn.simulation, exit=rule, exit_tolerance=0.1)
    valid, test = tiny_batches(24, 6), tiny_batches(17, 5)
    early = early_exit(snn, valid, test, T)
    accuracy, mean_timesteps = literally(snn, test, early.threshold)
    assert (early.accuracy, early.mean_timesteps, early.rule) == (accuracy, mean_timesteps, rule)
    assert mean_timesteps < T
    assert (early.full_accuracy, early.full_timesteps) == (literally(snn, test, NEVER)[0], T)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("tolerance", [0.0, 0.1, 1.0])
def test_the_threshold_is_the_quickest_that_costs_at_most_the_tolerance(snn, tiny_batches, tolerance, rule):
    snn.simulation = replace(snn.simulation, exit=rule, exit_tolerance=tolerance)
    valid, thresholds = tiny_batches(24, 6), RULES[rule].thresholds
    accuracy, mean_timesteps = literally(snn, valid, choose_threshold(snn, valid, T))
    least = literally(snn, valid, NEVER)[0] - tolerance - 1e-12
    assert accuracy >= least
    for threshold in thresholds[:: len(thresholds) // 8]:
        other_accuracy, other_timesteps = literally(snn, valid, threshold)
        assert other_accuracy < least or other_timesteps >= mean_timesteps


@pytest.mark.parametrize("rule", RULES)
def test_a_chunk_is_left_at_its_end_with_the_score_of_every_step(snn, tiny_batches, rule):
    """Images leave as with single steps, later by what is left of the chunk; patience counts inside the chunk too."""
    batches = tiny_batches(24, 6)
    snn.simulation = replace(snn.simulation, exit=rule, schedule="layer", chunk=2, exit_tolerance=0.1)
    early = early_exit(snn, batches, batches, T)
    steps, score = 0, SCORES[rule]
    for images, _ in batches:
        means = running_mean(snn(images, T))
        for n in range(len(images)):
            steps += next((t + 1 for t in range(1, T, 2) if score(means[:, n], t) >= early.threshold), T)
    assert early.mean_timesteps == steps / 24


def test_a_rule_starts_with_the_readout(snn, tiny_batches):
    """Steps before `readout_from` have no score."""
    snn.latency = replace(snn.latency, readout_from=4)
    snn.simulation = replace(snn.simulation, exit="patience", exit_tolerance=1.0)
    early = early_exit(snn, tiny_batches(24, 6), tiny_batches(17, 5), T)
    assert early.threshold == Patience.thresholds[0]
    assert early.mean_timesteps >= 5


@pytest.mark.parametrize("name", ["multilabel", "dense"])
@pytest.mark.parametrize("rule", RULES)
def test_other_tasks_leave_by_their_own_scores(name, rule):
    """Image by image: the first step whose score reaches the threshold."""
    torch.manual_seed(0)
    dense = name == "dense"
    head = [nn.Conv2d(4, 3, 1)] if dense else [nn.Flatten(), nn.Linear(64, 3)]
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), *head)
    images = torch.randint(0, 256, (20, 1, 4, 4), dtype=torch.uint8)
    targets = torch.randint(3, (20, 4, 4)) if dense else torch.randint(2, (20, 3)).float()
    batches = Batches(images, targets, 6, [0.5], [0.05])
    task = Dense() if dense else Multilabel()
    snn = snnconv.convert(network, batches, simulation={"exit": rule, "exit_tolerance": 0.1}).for_task(task)
    snn.simulation = replace(snn.simulation, schedule="step")
    early = early_exit(snn, batches, batches, T)
    score, steps = 0.0, 0
    for inputs, wanted in batches:
        means = running_mean(snn(inputs, T))
        for n in range(len(inputs)):
            alone = RULES[rule](task)
            scores = [float(alone.score(means[t, n : n + 1], t + 1)) for t in range(T)]
            t = next((t for t, score in enumerate(scores) if score >= early.threshold), T - 1)
            score += float(task.right(means[t, n : n + 1], wanted[n : n + 1]))
            steps += t + 1
    assert early.accuracy == pytest.approx(score / 20)
    assert early.mean_timesteps == steps / 20 < T


def test_what_cannot_leave_early_is_told_before_training():
    asked = Simulation(exit="confidence")
    with pytest.raises(ValueError, match="task=regress have no confidence"):
        require_exit(asked, Regress())
    with pytest.raises(ValueError, match=r"needs task\.readout=mean, got task\.readout=last"):
        require_exit(asked, Multilabel(readout="last"))
    with pytest.raises(ValueError, match="must know T in advance"):
        require_exit(asked, Multilabel(), Timing(anytime=False))
    with pytest.raises(ValueError, match=r"data\.valid=0"):
        require_exit(asked, Multilabel(), valid=0)
    require_exit(Simulation(), Regress(), Timing(anytime=False), valid=0)
    model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.rand(40, 4)

    def demand(snn, _):
        require_exit(snn.simulation, Regress(), snn.timing)

    refused = check(model, partial(find("mse"), simulate=asked, rule=least_squares), [(x, x[:, :2])], demands=[demand])
    assert "task=regress have no confidence" in str(refused.obstacles[0])


def test_nobody_leaves_unless_asked(snn, tiny_batches):
    snn.simulation = Simulation()
    assert early_exit(snn, tiny_batches(), tiny_batches(), T) is None


def test_a_model_that_has_to_know_t_cannot_exit(snn, tiny_batches):
    snn.timing = Timing(anytime=False)
    with pytest.raises(ValueError, match="no image can exit early"):
        early_exit(snn, tiny_batches(), tiny_batches(), T)


def test_the_exit_is_a_known_one(exact_network):
    with pytest.raises(ValueError, match=r"simulate\.exit='hurry'"):
        convert(exact_network(), [], neuron=IntegrateFire, simulate={"exit": "hurry"})


def test_a_report_is_plain_values(snn, tiny_batches):
    report = early_exit(snn, tiny_batches(24, 6), tiny_batches(), T).as_dict()
    assert report.pop("rule") == "confidence"
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
