"""`convert`: every method by name with its yaml's settings, on any network and any iterable, without changing what it is given."""

import copy
import doctest
import functools
import inspect

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from networks import Net
from snnconv.conversion import finetuning, preparation, registry
from snnconv.conversion.method import METHODS
from snnconv.conversion.methods import qcfs, threshold
from snnconv.conversion.preview import check
from snnconv.conversion.registry import CALIBRATION, convert, find, methods
from snnconv.conversion.rules import RULES, least_squares
from snnconv.nn.activations.qcfs import QCFS
from snnconv.spiking.accuracy import accuracy_over_time
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.neurons.integrate_fire import IntegrateFire
from snnconv.spiking.operators.choice import CHOICES
from snnconv.training import fitting

FROM_THE_RUN = {
    "task",
    "encoder",
    "levels",
    "seed",
    "timesteps",
    "precision",
    "data",
    "neuron",
    "operators",
    "simulate",
    "base",
}  # ${…} in the yaml


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.fixture
def relu(exact_network):
    return exact_network("plain", nn.ReLU)


@pytest.fixture
def images(exact_images):
    return exact_images(64)


class Calls(nn.Module):
    """ReLU as a function, as a method, and one module used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(16, 16) for _ in range(4))
        self.relu = nn.ReLU()

    def forward(self, x):
        x = self.relu(self.b(F.relu(self.a(x.flatten(1)))))
        return self.d(self.relu(self.c(x)).relu())


# names and settings


def test_every_yaml_is_a_choice_of_operators_of_that_name(list_options, compose_config):
    assert sorted(CHOICES) == list_options("operators")
    for name, choice in CHOICES.items():
        assert instantiate(compose_config(f"operators={name}").operators).func is choice


def test_every_yaml_is_a_method_of_that_name(list_options):
    assert methods() == list_options("method")


def test_a_summary_names_the_source():
    find("qcfs")
    for method in METHODS.values():
        assert method.summary.endswith("."), method.name
        assert len(method.summary) > 40, method.name


def plain(value):
    """A setting as the yaml has it: a function as its path and what is bound to it."""
    if isinstance(value, functools.partial):
        return {**plain(value.func), **value.keywords}
    return {"_target_": f"{value.__module__}.{value.__qualname__}", "_partial_": True} if callable(value) else value


def test_defaults_are_those_of_the_yaml(compose_config, any_method):
    """The signature and the registration hold them; the yaml lists them.  A rule's own defaults may be listed as well."""
    yaml = OmegaConf.to_container(compose_config(f"method={any_method}").method, resolve=True)
    defaults = find(any_method).settings()
    listed = {name: value for name, value in yaml.items() if not name.startswith("_") and name not in FROM_THE_RUN}
    for name, value in listed.items():
        expected = plain(defaults[name])
        if isinstance(value, dict):
            function = inspect.signature(instantiate(value).func).parameters.values()
            own = {p.name: p.default for p in function if p.default is not inspect.Parameter.empty}
            assert {**own, **value} == {**own, **expected}, name
        else:
            assert value == expected, name
    assert set(defaults) >= set(listed)
    from_the_run = set(yaml) & FROM_THE_RUN & set(defaults)
    assert from_the_run <= set(defaults)


@pytest.mark.parametrize("name", ["mse", "kl", "percentile", "max_norm", "ema", "group", "burst", "signed_snm", "cos"])
def test_by_name_is_as_by_configuration(name, compose_config, exact_network, exact_images, images):
    network = exact_network("plain", nn.ReLU if nn.ReLU in find(name).takes else lambda: QCFS(8))
    batches = [(exact_images(128, seed), torch.zeros(128, dtype=torch.long)) for seed in range(4)]
    configured = instantiate(compose_config(f"method={name}").method)(network, batches)
    ours = convert(network, batches, method=name)(images[:5], 4)
    torch.testing.assert_close(ours, configured(images[:5], 4))  # to rounding: θ may be folded into weights


def test_settings_reach_the_method_its_rule_and_its_neuron(relu, images):
    batches = [(images, torch.zeros(64))]
    rule = functools.partial(RULES["percentile"], percent=90.0)
    neuron = functools.partial(IntegrateFire, v_initial=0.25)
    expected = threshold.convert(relu, batches, rule=rule, neuron=neuron, per_channel=True)
    snn = convert(relu, images, method="percentile", percent=90.0, v_initial=0.25, per_channel=True)
    same(snn(images, 4), expected(images, 4))
    by_name = convert(
        relu, images, method="max_norm", rule="percentile", percent=90.0, v_initial=0.25, per_channel=True
    )
    same(by_name(images, 4), expected(images, 4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "percentil"}, r"method='percentil': no such method; did you mean percentile"),
        ({"method": "xyz"}, r"no such method; there are burst, cos"),
        ({"method": "percentile", "percnt": 1}, r"method=percentile: has no setting 'percnt'; did you mean percent"),
        ({"method": "mse", "rule": "ms"}, r"rule='ms': must be one of max, percentile, mse, kl"),
        ({"method": "finetune"}, r"method=finetune: needs timesteps=…"),
        ({"method": "qcfs"}, r"has no QCFS"),
        ({"method": "burst", "gamma": 0}, r"gamma=0"),
    ],
)
def test_what_is_wrong_is_named(settings, message, relu, images):
    with pytest.raises(ValueError, match=message):
        convert(relu, images, **settings)


def test_calibration_that_is_missing_is_asked_for(relu):
    with pytest.raises(ValueError, match="calibration"):
        convert(relu)


# auto


def test_auto_takes_what_was_trained(exact_network, images, relu):
    trained = exact_network("plain")
    same(convert(trained)(images, 4), qcfs.convert(trained, [])(images, 4))
    expected = threshold.convert(relu, [(images, torch.zeros(64))], rule=least_squares)
    same(convert(relu, images)(images, 4), expected(images, 4))
    trained[7] = nn.ReLU()
    assert convert(trained, images)(images, 4).isfinite().all()
    with pytest.raises(ValueError, match="7: "):
        convert(trained)


@pytest.mark.parametrize(
    ("between", "method"),
    [
        ([nn.MaxPool2d(2)], "mse"),  # of spike counts
        ([nn.AvgPool2d(2), nn.Dropout(0.1)], "mse"),
        ([nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)], "differential"),  # a linear bottleneck
        ([nn.GroupNorm(2, 4)], "differential"),
    ],
)
def test_auto_gives_spikes_to_all_weights(between, method):
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), *between, nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)
    )
    images = torch.rand(20, 1, 8, 8)
    model(images)
    model.eval()
    snn = convert(model, images)
    assert snn.method == check(model, images, verbose=False).method == method
    assert not snn.latency.analog_currents
    assert convert(model, images, method="mse").latency.analog_currents == (method == "differential")


def test_operators_by_name():
    """A name that is not one of them is an error, also where the network needs no operator; "auto" considers the choice."""
    layers = {"a": nn.Conv2d(1, 4, 3), "relu": nn.ReLU(), "average": nn.AvgPool2d(2), "b": nn.Conv2d(4, 3, 1)}
    pooled = Net(lambda n, x: n.b(n.largest(y := n.relu(n.a(x))) + n.average(y)), largest=nn.MaxPool2d(2), **layers)
    model, inputs = pooled.eval(), torch.rand(300, 1, 8, 8)
    for operators, method in (("auto", "mse"), ("winner", "mse"), ("running_mean", "differential")):
        assert convert(model, inputs, operators=operators).method == method
        assert check(model, inputs, operators=operators, verbose=False).method == method
    for operators in ("spiking", None):
        with pytest.raises(
            ValueError, match=rf"operators={operators!r}: must be one of auto, running_mean, winner, none"
        ):
            convert(nn.Sequential(*layers.values()).eval(), inputs, method="mse", operators=operators)


def test_methods_of_a_network(relu, exact_network):
    assert {"mse", "burst"} < set(methods(relu))
    assert "qcfs" not in methods(relu)
    assert {"qcfs", "burst"} < set(methods(exact_network("plain")))
    assert "mse" not in methods(exact_network("plain"))
    assert {"mse", "burst"} < set(methods(Calls()))
    assert methods(nn.Linear(3, 2)) == []


# what it is given


def test_the_model_is_left_alone(relu, images):
    for model in (relu.train(), Calls().eval()):
        before, mode = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
        children = [type(module) for module in model.modules()]
        for name in ("auto", "threshold_balancing", "layer_calibration_advanced", "temporal_bias"):
            snn = convert(model, images, method=name)
            snn(images, 2)
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
        assert [m.training for m in model.modules()] == mode
        assert [type(module) for module in model.modules()] == children
        assert not any(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("method", ["auto", "temporal_bias", "spikingjelly_rate"])
def test_relus_are_found_wherever_they_are_called(method, images):
    model = Calls()
    snn = convert(model, images, method=method)
    assert len(snn.neurons()) == 4
    many = snn(images, 512).mean(0)
    assert (many - model(images)).abs().max() < 0.2 * model(images).abs().max() + 0.05


class Stream(IterableDataset):
    """Batches of unknown number."""

    def __init__(self, images):
        self.images = images

    def __iter__(self):
        return iter(self.images)


def test_any_iterable_calibrates(relu, images):
    labels, expected = torch.zeros(64, dtype=torch.long), convert(relu, images)(images, 4)
    sources = {
        "list of pairs": [(images[:32], labels[:32]), (images[32:], labels[32:])],
        "list of tensors": [images[:32], images[32:]],
        "one pair": (images, labels),
        "generator": ((part, None) for part in images.split(16)),
        "loader": DataLoader(TensorDataset(images, labels), 16),
        "inputs alone": DataLoader(TensorDataset(images), 16),
        "stream": DataLoader(Stream(images), 16),
        "other targets": [(images, {"boxes": 1})],
    }
    for name, source in sources.items():
        same(convert(relu, source)(images, 4), expected), name
    for wrong in ([{"image": images}], 3, ["text"]):
        with pytest.raises(TypeError, match="expected"):
            convert(relu, wrong)


def test_as_many_samples_calibrate_as_the_configurations_say(relu, exact_images):
    served = []

    def batches():
        for seed in range(100):
            served.append(seed)
            yield exact_images(300, seed)

    class Source:
        def __iter__(self):
            return batches()

    snn = convert(relu, Source())
    assert len(served) == -(-CALIBRATION // 300)
    expected = torch.cat([exact_images(300, seed) for seed in range(4)])[:CALIBRATION]
    same(snn(expected[:3], 4), convert(relu, expected)(expected[:3], 4))


def test_simulation_is_a_mapping_of_settings(relu, images):
    assert convert(relu, images, simulation={"schedule": "layer"}).simulation.schedule == "layer"


def test_five_lines_give_accuracy_over_time(tiny_batches, relu, unchecked):
    data = [(x, y) for x, y in tiny_batches(32, 8)]
    loader = DataLoader(TensorDataset(torch.cat([x for x, _ in data]), torch.cat([y for _, y in data])), 8)
    snn = convert(relu, calibration=loader)
    assert isinstance(snn, SpikingModel)
    outputs = torch.cat([snn(x, 8) for x, _ in loader], 1)
    assert outputs.shape == (8, 32, 3)
    assert list(accuracy_over_time(snn, registry.Loader(loader, "cpu"), 8).accuracy) == list(range(1, 9))


# examples


@pytest.mark.parametrize(
    "function",
    [convert, methods, preparation.prepare, finetuning.finetune, fitting.fit],
    ids=["convert", "methods", "prepare", "finetune", "fit"],
)
def test_the_examples_run(function, unchecked):
    text = inspect.getdoc(function)
    (example,) = [doctest.DocTestParser().get_doctest(text, {}, function.__name__, None, 0)]
    assert example.examples
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(example)
    assert runner.failures == 0


def test_methods_of_a_network_with_max_pooling():
    """Max pooling is no obstacle: an operator stands for it."""
    relu = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 3))
    assert {"mse", "percentile"} <= set(methods(relu))
    assert "qcfs" in methods(preparation.prepare(relu, levels=4))
    assert methods(nn.Sequential(nn.Linear(4, 2))) == []


class Functional(nn.Module):
    """A network that only a capture can follow: max pooling is a call."""

    def __init__(self):
        super().__init__()
        self.conv, self.act, self.fc = nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Linear(64, 3)

    def forward(self, x):
        return self.fc(nn.functional.max_pool2d(self.act(self.conv(x)), 2).flatten(1))


def test_an_example_tells_methods_and_convert_more():
    model, images = Functional().eval(), torch.rand(64, 1, 8, 8)
    assert methods(model) == []
    assert "mse" in methods(model, images)
    traced = preparation.prepare(model, levels=4)
    traced(images)  # sets the thresholds
    with pytest.raises(
        ValueError, match="no inputs were given: pass calibration=…, with which calls of functions can be converted"
    ):
        convert(traced)
    assert convert(traced, images).method == "qcfs"


def test_a_network_prepared_with_inputs_needs_none_later():
    model, images = Functional(), torch.rand(64, 1, 8, 8)
    prepared = preparation.prepare(model, levels=4, calibration=images)
    assert set(dict(prepared.named_parameters())) > set(dict(model.named_parameters()))
    assert torch.equal(convert(prepared)(images, 8), convert(prepared, images)(images, 8))


def test_a_misspelt_argument_of_convert_is_suggested():
    with pytest.raises(ValueError, match="has no setting 'callibration'; did you mean calibration"):
        convert(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), callibration=torch.rand(8, 4))


def test_no_method_without_inputs_is_explained(caplog):
    assert methods(Functional()) == []
    assert "methods(model, inputs)" in caplog.text


def test_a_switch_is_true_or_false():
    """The string "no" would be true."""
    methods()  # imports all
    switches = [
        (method, key)
        for method in METHODS.values()
        for key, value in method.settings().items()
        if isinstance(value, bool)
    ]
    assert len(switches) > 10
    for method, switch in switches:
        with pytest.raises(ValueError, match=rf"method\.{switch}='no': must be true or false"):
            method(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)), [], **{switch: "no"})


def test_a_number_is_not_a_word():
    """As in method.first=abc."""
    methods()  # imports all
    numbers = [
        (method, key)
        for method in METHODS.values()
        for key, value in method.settings().items()
        if type(value) in (int, float)
    ]
    assert len(numbers) > 50
    for method, number in numbers:
        with pytest.raises(ValueError, match=rf"method\.{number}='abc': must be a number"):
            method(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)), [], **{number: "abc"})
