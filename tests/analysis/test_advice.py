"""The advice follows from the figures of the decomposition."""

import re

import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from snnconv.analysis.advice import REMEDIES, diagnose, most_important
from snnconv.analysis.errors import Decomposition, decompose
from snnconv.analysis.layer_errors import PARTS, LayerErrors
from snnconv.conversion.method import takes
from snnconv.conversion.methods import qcfs
from snnconv.nn.activations.qcfs import QCFS
from snnconv.spiking.neurons.integrate_fire import IntegrateFire


def layer(path: str, t: int, **size: float) -> LayerErrors:
    figures = dict.fromkeys((*PARTS, "total"), 0.0) | size
    offsets = {-2: 0.0, -1: 0.1, 0: 0.9, 1: 0.0, 2: 0.0}
    return LayerErrors(path, t, figures, figures, figures, offsets, 0.1, saturated=0.25, silent=0.0, firing_rate=0.2)


def errors(ann: float, clipped: float, even: float, snn: float, images: int = 10_000, **other: float) -> Decomposition:
    layers = [layer("first", 4, clipping=0.3, quantization=0.1, unevenness=0.02),
              layer("second", 4, clipping=0.1, quantization=0.4, unevenness=0.01),
              layer("third", 4, unevenness=0.05)]  # fmt: skip
    return Decomposition(images, layers, ann, clipped, other.get("limit", clipped), {4: even}, {4: snn})


QUANTIZED, PLAIN = nn.Sequential(QCFS(4)), nn.Sequential(nn.ReLU())


@pytest.mark.parametrize(
    ("ladder", "cause", "path"),
    [((0.9, 0.5, 0.48, 0.47), "clipping", "first"), ((0.9, 0.89, 0.5, 0.48), "quantization", "second"),
     ((0.9, 0.9, 0.88, 0.5), "unevenness", "third"), ((0.9, 0.95, 0.94, 0.6), "unevenness", "third")],
)  # fmt: skip
def test_names_the_error_that_costs_most_and_where_it_is_largest(ladder, cause, path):
    for network, which in ((QUANTIZED, 0), (PLAIN, 1)):
        loss, remedy, limit = diagnose(errors(*ladder), network, [4])
        assert [each.kind for each in (loss, remedy, limit)] == ["loss", "remedy", "limit"]
        assert loss.cause == remedy.cause == cause
        assert f"The main cause is {cause}, largest in {path} " in loss.text()
        assert remedy.remedies == REMEDIES[cause][which]
        assert remedy.text() == f"To reduce {cause} (T = 4): {'; '.join(REMEDIES[cause][which])}."


def test_costs_are_those_of_the_ladder():
    loss, *_ = diagnose(errors(0.9, 0.92, 0.8, 0.5), PLAIN, [4])
    assert "T = 4: 50.0 %, ANN 90.0 %" in loss.text()
    assert "clipping costs -2.0 points, quantization costs 12.0 points, unevenness costs 30.0 points" in loss.text()


def test_a_difference_within_the_noise_has_no_cause():
    small = errors(0.9, 0.9, 0.89, 0.88, images=100)
    loss, limit = diagnose(small, PLAIN, [4])
    assert (loss.cause, limit.kind) == (None, "limit")
    assert loss.text().endswith("the difference is small for 100 images.")
    assert diagnose(errors(0.9, 0.9, 0.89, 0.88), PLAIN, [4])[0].cause is not None


@pytest.mark.parametrize(
    ("limit", "snn", "said"),
    [(0.7, 0.7, "more timesteps do not help"), (0.7, 0.5, "20.0 points more than at T = 4; the rest is lost to clipping"),
     (0.9, 0.5, "and only clipping remains: 40.0 points more than at T = 4.")],
)  # fmt: skip
def test_says_whether_more_timesteps_would_help(limit, snn, said):
    assert said in diagnose(errors(0.9, 0.8, 0.7, snn, limit=limit), PLAIN, [4])[-1].text()


def test_remedies_are_there_to_be_chosen(list_options):
    named = {
        name for both in REMEDIES.values() for texts in both for name in re.findall(r"method=(\w+)", " ".join(texts))
    }
    assert named
    assert named <= set(list_options("method"))


@pytest.mark.parametrize("network", [QUANTIZED, PLAIN])
def test_remedies_take_the_network_and_the_settings(network, compose_config):
    """Each recommended method accepts the recommended settings for the activations of the network."""
    kinds = {type(module) for module in network}
    for both in REMEDIES.values():
        for chosen in re.findall(r"method=\w+(?: method[\w.@]+=\w+)*", " ".join(both[network is PLAIN])):
            method = instantiate(compose_config(*chosen.split()).method)
            starts = takes(method)
            assert kinds <= set(starts), chosen


def test_a_real_network(exact_network, exact_images):
    ann = exact_network("residual", lambda: QCFS(4), seed=3).double()
    snn = qcfs.convert(ann, [], neuron=IntegrateFire)
    batches = [(exact_images(40).double(), torch.arange(40) % 3)]
    advice = diagnose(decompose(ann, snn, batches, [1, 4]), ann, [1, 4])
    assert [(each.kind, each.timesteps) for each in (*advice[:2], advice[-1])] == [
        ("loss", (1,)), ("loss", (4,)), ("limit", (4,)),
    ]  # fmt: skip
    assert advice[-1].text().startswith("With more timesteps the accuracy approaches")


def test_the_most_important_advice_is_about_the_largest_t_with_a_cause():
    layers = [layer("only", t, clipping=0.3, quantization=0.1, unevenness=0.02) for t in (2, 4, 8)]
    ladder = Decomposition(10_000, layers, 0.9, 0.89, 0.9, {2: 0.4, 4: 0.88, 8: 0.89}, {2: 0.3, 4: 0.5, 8: 0.9})
    every = diagnose(ladder, QUANTIZED, [2, 4, 8])
    assert [each.cause for each in every if each.kind == "loss"] == ["quantization", "unevenness", None]
    chosen = most_important(every)
    assert [(each.kind, each.timesteps, each.cause) for each in chosen] == [
        ("loss", (4,), "unevenness"), ("remedy", (4,), "unevenness"), ("limit", (8,), None),
    ]  # fmt: skip
    nothing = diagnose(errors(0.9, 0.9, 0.89, 0.9), QUANTIZED, [4])
    assert [each.kind for each in most_important(nothing)] == ["limit"]
    assert most_important([]) == []
