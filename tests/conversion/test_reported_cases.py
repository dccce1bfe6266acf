"""Cases of public reports: each network converts to the right numbers, by Python and by `model=custom`, or the refusal says why.

Other cases have their tests where their subject is:
neighbours of a file                tests/nn/test_models_custom.py, tests/cli/test_cli_custom.py
checkpoints                         tests/runtime/test_weights.py
moved runs                          tests/cli/test_cli_custom.py, tests/runtime/test_runtime.py
printed commands                    tests/runtime/test_printed_commands.py
errors that check foresees          tests/conversion/test_demands.py, tests/cli/test_cli_check.py
folders of images                   tests/data/test_folder.py
systems without locks               tests/cli/test_cli_environment.py
"""

import inspect
import re

import pytest
import torch

import reported_nets
import snnconv
from reported_nets import Small
from snnconv.conversion.checks import check
from snnconv.conversion.registry import find
from snnconv.nn.activations.qcfs import QCFS
from snnconv.nn.activations.relu import ReLU
from snnconv.nn.models.custom import custom

SHAPE, T = (1, 4, 4), 600
RIGHT = {
    "two names": ("TwoNames", {}), "one name": ("TwoNames", {"both": False}), "tied weights": ("Tied", {}),
    "optional arguments": ("Optional", {}), "branch on a shape": ("Guard", {}),
    "off by default": ("Drops", {"function": "alpha_dropout"}),
    **{f"constants: {how}": ("Constants", {"how": how}) for how in ("view", "None", "tensor", "gain")},
    **{f"ReLU: {how}": ("Spelled", {"how": how}) for how in reported_nets.RELUS if how not in ("gelu", "leaky 0.1")},
    **{f"subclass: {how}": ("Subclass", {"how": how}) for how in ("capped", "shifted", "hooked")},
    "log-probabilities": ("Ends", {}), "sequence first": ("SequenceFirst", {}), "bilinear upsampling": ("Upsampled", {}),
}  # fmt: skip
REFUSED = {
    **{f: ("Drops", {"function": f}, "is active in evaluation") for f in ("dropout", "dropout1d")},
    **{k: ("Outputs", {"kind": k}, f"returns a {k}.*return only the logits") for k in ("tuple", "dict", "list")},
    "two inputs": ("TwoInputs", {}, "mask.*default"),
    "gelu": ("Spelled", {"how": "gelu"}, r"no ReLU.*GELU \("),
    "leaky": ("Spelled", {"how": "leaky 0.1"}, r"no ReLU.*LeakyReLU \("),
    "recurrent": ("Recurrent", {}, r"rnn .*a recurrent layer"),
    "batch statistics": ("BatchStatistics", {}, "mixes the images of a batch"),
    "data-dependent": ("DataDependent", {}, "branches on values of a tensor"),
    "complex": ("Complex", {}, "complex numbers"),
}  # fmt: skip


def built(name, settings):
    torch.manual_seed(0)
    return getattr(reported_nets, name)(**settings).eval()


def by_command(name, settings, activation):
    torch.manual_seed(0)
    return custom(reported_nets.__file__, name, 3, SHAPE, activation, arguments=settings).eval()


def images(count=40):
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def error(snn, ann, x, timesteps=T):
    own = ann(x)
    return ((snn(x, timesteps).mean(0) - own).abs().max() / own.abs().max()).item()


@pytest.mark.parametrize(("name", "settings"), RIGHT.values(), ids=RIGHT)
def test_the_spiking_network_is_the_users(name, settings):
    x, network = images(), built(name, settings)
    before = {key for module in network.modules() for key in vars(module)}
    result = snnconv.check(network, x, method="max_norm", verbose=False)
    assert result.obstacles == []
    for schedule in ("step", "layer"):
        snn = snnconv.convert(network, x, method="max_norm", simulation={"schedule": schedule})
        assert error(snn, network, x) < 0.02
    assert {key for module in network.modules() for key in vars(module)} == before


@pytest.mark.parametrize(("name", "settings"), RIGHT.values(), ids=RIGHT)
def test_what_is_trained_by_command_is_the_users_network(name, settings):
    """With ReLUs it computes what the user's file says; with QCFS it spikes exactly as that."""
    x, network = images(), built(name, settings)
    plain = by_command(name, settings, ReLU)
    torch.testing.assert_close(plain(x), network(x), rtol=1e-4, atol=1e-5)
    trained = by_command(name, settings, lambda: QCFS(4, 0.4))
    sites = [module for module in trained.modules() if isinstance(module, QCFS)]
    assert len(sites) == len(snnconv.convert(network, x, method="max_norm").neurons())
    snn = snnconv.convert(trained, x, method="parallel")
    assert error(snn, trained, x, 4) < 1e-5
    assert {k for k, _ in trained.named_parameters() if "theta" not in k} <= {
        k for k, _ in network.named_parameters(remove_duplicate=False)
    }


@pytest.mark.parametrize(("name", "settings", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_right_is_refused_with_the_reason(name, settings, message, capfd):
    x, network = images(), built(name, settings)
    pattern = re.compile(message, re.DOTALL)
    (text,) = map(str, snnconv.check(network, x, method="max_norm", verbose=False).obstacles)
    assert pattern.search(text)
    with pytest.raises(ValueError, match=pattern):
        snnconv.convert(network, x, method="max_norm")
    with pytest.raises(ValueError, match=pattern):
        by_command(name, settings, ReLU)
    with pytest.raises(ValueError, match=pattern):
        snnconv.prepare(network, calibration=x)
    assert capfd.readouterr() == ("", "")


def test_without_images_dropout_and_second_names_are_seen_too():
    network = by_command("TwoNames", {}, lambda: QCFS(4, 0.4))
    assert error(snnconv.convert(network, method="parallel"), network, images(), 4) < 1e-5
    network = built("Drops", {})
    network.act = QCFS(4, 0.4)
    network.function = torch.nn.functional.dropout
    with pytest.raises(ValueError, match="is active in evaluation"):
        snnconv.convert(network, method="parallel")


def test_a_clip_bounds_the_threshold():
    for name, settings, ceiling in (("Spelled", {"how": "clip"}, 0.5), ("Subclass", {"how": "capped"}, 0.4)):
        network = snnconv.prepare(built(name, settings), calibration=100 * images())
        (theta,) = [m.threshold.item() for m in network.modules() if isinstance(m, QCFS)]
        assert theta < ceiling + 1e-6
        initial = by_command(name, settings, lambda: QCFS(4, 8.0))
        assert [m.threshold.item() for m in initial.modules() if isinstance(m, QCFS)] == pytest.approx([ceiling])


def test_what_a_copy_does_not_train_is_told(caplog):
    caplog.set_level("WARNING")
    by_command("Constants", {"how": "gain"}, lambda: QCFS(4))
    assert not caplog.text  # tracing keeps it

    class Standardized(Small):
        def __init__(self):
            super().__init__()
            del self.act

        def forward(self, x):
            weight = self.a.weight - self.a.weight.mean(1, keepdim=True)
            h = torch.nn.functional.linear(x.flatten(1), weight, self.a.bias)
            return self.b(h.clamp(0, 0.1) if not self.training else h.clamp(0, 0.2))

    snnconv.prepare(Standardized(), calibration=images())
    assert "Standardized: computes weights from a.weight; these parameters are not trained" in caplog.text
    assert "Standardized: its output differs in training mode" in caplog.text


def test_a_subclass_of_an_activation_that_computes_something_else_is_refused():
    class Mine(QCFS):
        def forward(self, x):
            return super().forward(x) + 0.1

    network = Small()
    network.act = Mine(4)
    (text,) = map(str, snnconv.check(network, images(), method="qcfs", verbose=False).obstacles)
    assert "act (Mine): its output differs from QCFS" in text


def test_a_percentile_of_few_activations_is_told_before_training():
    for count, messages in ((4, ["needs at least 1000 activations, got 48"]), (100, []), (None, [])):
        example = images() if count is None else [(images(count), torch.zeros(count))]
        result = snnconv.check(Small(), example, method="percentile", percent=99.9, verbose=False)
        assert len(result.obstacles) == len(messages)
        assert all(m in str(o) for m, o in zip(messages, result.obstacles, strict=True))


def test_half_precision_is_named_by_python_and_trained_in_full_by_command():
    network = built("Half", {})
    assert "call .float()" in str(snnconv.check(network, images(), method="max_norm", verbose=False).obstacles[0])
    assert by_command("Half", {}, ReLU)(images()).dtype is torch.float32


def test_outputs_that_are_no_logits_are_told():
    found = check(Small(2), find("max_norm"), [(images(), torch.zeros(40))], classes=3)
    assert "returns 2 for an image, expected 3 logits" in str(found.obstacles[0])


def test_what_ends_in_probabilities_is_told_to_leave_them_out():
    result = snnconv.check(built("Ends", {}), images(), method="max_norm", verbose=False)
    assert any("LogSoftmax" in text and "remove it to avoid" in text for text in result.warnings)


@pytest.mark.parametrize("how", ["by Python", "by command"])
def test_an_explanation_counts_bilinear_upsampling(how):
    x = images()
    network = built("Upsampled", {}) if how == "by Python" else by_command("Upsampled", {}, lambda: QCFS(4, 0.4))
    snn = snnconv.convert(network, x, method="max_norm" if how == "by Python" else "qcfs")
    why = snnconv.explain(network, snn, [(x, torch.zeros(len(x)).long())], timesteps=[2, 4])
    assert why.images == len(x)


def test_every_network_of_the_reports_is_tested():
    classes = {
        name
        for name, kind in vars(reported_nets).items()
        if inspect.isclass(kind) and issubclass(kind, torch.nn.Module)
    }
    used = {row[0] for row in (*RIGHT.values(), *REFUSED.values())}
    assert classes - used == {"Small", "Capped", "Shifted", "Half"}
