"""Distillation: the formula by hand, and a teacher in training."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from snnconv.nn.graph.kinds import is_activation
from snnconv.spiking.tasks.distances import distillation
from snnconv.training.distillation import LayerDistances
from snnconv.training.loop import fit
from snnconv.training.settings import Fit

FINITE = st.lists(st.floats(-8, 8), min_size=3, max_size=3)


@given(ours=FINITE, theirs=FINITE, temperature=st.sampled_from([0.5, 1.0, 4.0]))
def test_is_the_divergence_of_two_distributions(ours, theirs, temperature):
    def softmax(values):
        powers = [math.exp(value / temperature) for value in values]
        return [power / sum(powers) for power in powers]

    p, q = softmax(theirs), softmax(ours)
    expected = temperature**2 * sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))
    got = distillation(
        torch.tensor([ours], dtype=torch.float64), torch.tensor([theirs], dtype=torch.float64), temperature
    )
    assert got.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert got >= -1e-12


def test_is_a_mean_over_samples():
    logits, teacher = torch.randn(5, 3), torch.randn(5, 3)
    each = torch.stack([distillation(a, b) for a, b in zip(logits.split(1), teacher.split(1), strict=True)])
    torch.testing.assert_close(distillation(logits, teacher), each.mean())


@pytest.fixture
def teacher(open_tiny_run, tiny_batches, fresh_network):
    """A run that has learned the other class, whatever the image."""
    run = open_tiny_run("teacher")
    ann = _mlp()
    with torch.no_grad():
        ann[-1].weight.zero_()
        ann[-1].bias.copy_(torch.tensor([5.0, -5.0]))
    run.save_ann(ann, {})
    return run.folder


def _mlp():
    from snnconv.nn.activations.qcfs import QCFS
    from snnconv.nn.models.mlp import mlp

    torch.manual_seed(0)
    return mlp(2, (1, 4, 4), lambda: QCFS(8, 8.0), hidden=(8,))


def weights(run, batches, **settings):
    ann = _mlp()
    fit(ann, batches, batches, Fit(epochs=4, lr=0.1, batch_size=4, select="last", **settings), run)
    return ann


def test_the_student_learns_what_the_teacher_says(teacher, open_tiny_run, tiny_batches):
    batches = tiny_batches(16, 4, shuffle=True)
    images, labels = batches.images * batches.scale + batches.offset, batches.labels
    alone = weights(open_tiny_run("a"), batches)
    assert (alone(images).argmax(1) == labels).float().mean() > 0.7
    taught = weights(open_tiny_run("b"), batches, teacher=str(teacher), distill=1.0)
    assert (taught(images).argmax(1) == 0).all()


def test_a_share_of_nothing_changes_nothing(teacher, open_tiny_run, tiny_batches):
    batches = tiny_batches(16, 4, shuffle=True)
    alone = weights(open_tiny_run("a"), batches)
    ignored = weights(open_tiny_run("b"), batches, teacher=str(teacher), distill=0.0)
    for a, b in zip(alone.parameters(), ignored.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_loading_a_teacher_draws_nothing(teacher, open_tiny_run, tiny_batches):
    """So a run that is resumed, and loads it again, goes on to the same numbers."""
    from snnconv.training.distillation import load_teacher

    state = torch.get_rng_state()
    load_teacher(str(teacher), torch.zeros(1, 1, 4, 4), [2])
    assert torch.equal(torch.get_rng_state(), state)


def test_a_teacher_that_does_not_fit_is_told(teacher):
    from snnconv.training.distillation import load_teacher

    with pytest.raises(ValueError, match=r"has outputs \[2\], this network has \[3\]"):
        load_teacher(str(teacher), torch.zeros(1, 1, 4, 4), [3])
    with pytest.raises(ValueError, match="does not accept images"):
        load_teacher(str(teacher), torch.zeros(1, 1, 8, 8), [2])
    with pytest.raises(ValueError, match=r"^fit\.teacher=nowhere: this run folder does not exist$"):
        load_teacher("nowhere", torch.zeros(1, 1, 8, 8), [2])


def test_a_missing_teacher_leaves_nothing_to_resume(open_tiny_run, tiny_batches, tmp_path):
    run, batches = open_tiny_run("run"), tiny_batches(8, 4)
    with pytest.raises(ValueError, match=r"contains no ann\.json"):
        fit(_mlp(), batches, batches, Fit(epochs=1, lr=0.1, batch_size=4, teacher=str(tmp_path)), run)
    assert not (run.folder / "last.ckpt").exists()


@pytest.mark.parametrize("wrong", [{"distill": 1.5}, {"distill": -0.1}, {"temperature": 0.0}, {"teacher": 3}])
def test_wrong_settings_are_named(wrong, unchecked):
    with pytest.raises(ValueError, match=f"fit.{next(iter(wrong))}"):
        Fit(epochs=1, lr=0.1, batch_size=4, **wrong)


def test_layers_by_hand():
    """Mean over layers of the squared distance, each in units of the teacher's squares."""
    student, teacher = _mlp(), _mlp()
    with torch.no_grad():
        teacher[1].weight.add_(0.3)
    distances, images = LayerDistances(student, teacher), torch.randn(5, 1, 4, 4)
    student(images)
    teacher(images)
    paths = [path for path, module in student.named_modules() if is_activation(module)]
    expected = []
    for path in paths:
        seen = [seen_at(network, path, images) for network in (student, teacher)]
        expected.append((seen[0] - seen[1]).square().sum() / seen[1].square().sum())
    torch.testing.assert_close(distances(), torch.stack(expected).mean())
    distances.close()


def seen_at(network, path, images):
    found = []
    with network.get_submodule(path).register_forward_hook(lambda module, inputs, output: found.append(output)):
        network(images)
    return found[0]


def test_layers_are_learned(open_tiny_run, tiny_batches):
    """From other weights towards the teacher's activations."""
    batches, run = tiny_batches(16, 4, shuffle=True), open_tiny_run("teacher")
    teacher = _mlp()
    teacher[3].set_threshold(1.0)
    fit(teacher, batches, batches, Fit(epochs=6, lr=0.05, batch_size=4, select="last"), run)
    images = batches.images * batches.scale + batches.offset

    def distance(**settings) -> float:
        torch.manual_seed(1)
        ann = _mlp()
        ann[3].set_threshold(1.0)
        with torch.no_grad():
            ann[1].weight.add_(0.2 * torch.randn(8, 16))
        run = open_tiny_run(str(settings))
        fit(ann, batches, batches, Fit(epochs=10, lr=0.05, batch_size=4, select="last", **settings), run)
        found = LayerDistances(ann, teacher)
        ann(images)
        teacher(images)
        value = found().item()
        found.close()
        assert not any(module._forward_hooks for module in ann.modules())
        return value

    taught = {"teacher": str(run.folder), "distill": 0.0}
    assert distance(**taught, distill_layers=2.0) < 0.5 * distance(**taught)


def test_layers_need_a_teacher_and_eager_code(open_tiny_run, tiny_batches, teacher):
    with pytest.raises(ValueError, match=r"fit\.distill_layers: needs a teacher"):
        Fit(epochs=1, lr=0.1, batch_size=4, distill_layers=1.0)
    settings = Fit(epochs=1, lr=0.1, batch_size=4, distill_layers=1.0, teacher=str(teacher), compile=True)
    with pytest.raises(ValueError, match="compile=false"):
        fit(_mlp(), tiny_batches(), tiny_batches(), settings, open_tiny_run("x"))


def test_networks_that_share_no_layer_are_told():
    student, teacher = _mlp(), torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
    distances, images = LayerDistances(student, teacher), torch.randn(2, 1, 4, 4)
    student(images), teacher(images)
    with pytest.raises(ValueError, match="no activation has the same path"):
        distances()
