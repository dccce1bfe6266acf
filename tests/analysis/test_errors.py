"""Errors in parts: equal to a literal count, adding up, and blaming what is to blame."""

import copy
import json
from pathlib import Path

import pytest
import torch
from spikingjelly.activation_based import functional as sj
from torch import nn

from snnconv.analysis.costs import Costs
from snnconv.analysis.errors import _small, decompose
from snnconv.analysis.explanation import explain_run
from snnconv.analysis.ideal_networks import Counted, Even, evenly
from snnconv.analysis.layer_errors import PARTS, ConstantCurrentWatch, Watch, watch
from snnconv.conversion.methods import burst, parallel, qcfs, srp, st_bif, threshold
from snnconv.data.batches import Batches
from snnconv.data.splits import Splits
from snnconv.nn.activations.qcfs import QCFS
from snnconv.spiking.accuracy import accuracy
from snnconv.spiking.latency import Latency
from snnconv.spiking.model import SpikingModel
from snnconv.spiking.network import OverTime
from snnconv.spiking.neurons.integrate_fire import IntegrateFire
from snnconv.spiking.simulation import Timing

TS = [1, 2, 4, 8]


def same(a, b, **tolerance):
    torch.testing.assert_close(a, b, **(tolerance or {"rtol": 0, "atol": 0}))


@pytest.fixture(params=["plain", "residual"])
def ann(request, exact_network):
    return exact_network(request.param, lambda: QCFS(4), seed=3).double()


@pytest.fixture
def relu(exact_network):
    return exact_network("residual", nn.ReLU, seed=3).double()


@pytest.fixture
def batches(exact_images):
    return [(exact_images(6, seed).double(), torch.arange(6) % 3) for seed in (1, 2)]


def convert(ann, **settings):
    return qcfs.convert(ann, [], neuron=IntegrateFire, simulate={"fold_threshold": False, **settings})


def recorded(network: nn.Module, run, what):
    """what(inputs, output) of every activation, or clock, of `network` while run(network) runs: path → list of calls."""
    seen: dict[str, list] = {}
    handles = [
        module.register_forward_hook(lambda m, i, o, path=path: seen.setdefault(path, []).append(what(i[0], o)))
        for path, module in network.named_modules()
        if isinstance(module, QCFS | nn.ReLU | OverTime)
    ]
    run(network)
    for handle in handles:
        handle.remove()
    return seen


def fires(x: float, theta: float, steps: int) -> float:
    """Mean output of an integrate-and-fire neuron, literally."""
    v, count = theta / 2, 0
    for _ in range(steps):
        v += x
        if v >= theta:
            v, count = v - theta, count + 1
    return theta * count / steps


@pytest.mark.parametrize("t", [2, 4])
def test_equals_a_literal_count(ann, batches, t):
    """Element by element with loops; weights k/8 and thresholds 2^k, so that nothing is rounded."""
    snn, images = convert(ann), torch.cat([x for x, _ in batches])
    z, a = ({path: calls[0] for path, calls in recorded(ann, lambda n: n(images), what).items()}
            for what in (lambda i, o: i.clone(), lambda i, o: o.clone()))  # fmt: skip
    layerwise = convert(ann, schedule="layer")
    steps = recorded(layerwise.network, lambda _: layerwise(images, t), lambda i, o: (i.clone(), o.clone()))
    found = {layer.path: layer for layer in decompose(ann, snn, batches, [t]).at(t)}
    assert list(found) == list(z)
    for path, layer in found.items():
        theta = ann.get_submodule(path).threshold.item()
        current, output = (torch.cat([x.unflatten(0, (-1, 12)) for x in xs]) for xs in zip(*steps[path], strict=True))
        rows = []
        for i in range(z[path].numel()):
            x, y = z[path].flatten()[i].item(), a[path].flatten()[i].item()
            mean, out = (s.flatten(1)[:, i].mean().item() for s in (current, output))
            meant, even = fires(x, theta, t), fires(mean, theta, t)
            rows.append(
                [y - min(y, theta), min(y, theta) - meant, meant - even, even - out, y - out, (even - out) * t / theta]
            )
        table = torch.tensor(rows, dtype=torch.float64)
        power = a[path].square().sum().item()
        names = (*PARTS, "total")
        same([layer.mean[name] for name in names], table[:, :5].mean(0).tolist(), rtol=1e-12, atol=1e-15)
        same(
            [layer.share[n] for n in names],
            ((table[:, :5] * table[:, 4:5]).sum(0) / power).tolist(),
            rtol=1e-12,
            atol=1e-15,
        )
        same([layer.size[n] for n in names], (table[:, :5].square().sum(0) / power).tolist(), rtol=1e-12, atol=1e-15)
        for k, share in layer.offset_spikes.items():
            assert share == pytest.approx((table[:, 5].clamp(-2, 2) == k).double().mean().item(), abs=1e-12)
        fired = output.flatten(1).reshape(t, 12, -1) > 0
        assert layer.silent == pytest.approx(1 - fired.any(0).any(0).double().mean().item())
        assert layer.saturated == pytest.approx(fired.all(0).double().mean().item())
        assert layer.firing_rate == pytest.approx(fired.double().mean().item())
        v = theta / 2 + current.sum(0) - output.sum(0)
        some, every = (output > 0).any(0), (output > 0).all(0)
        owing = ((v < 0) & some) | ((v >= theta) & ~every)
        assert layer.residual == pytest.approx(owing.double().mean().item())


def test_the_order_of_asking_does_not_matter(ann, batches):
    """One run for all T, a run for each, other schedules, folded thresholds, other batches: the same figures."""
    whole = decompose(ann, convert(ann), batches, TS)
    joined = [(torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches]))]
    for other in (
        [layer for t in TS for layer in decompose(ann, convert(ann), batches, [t]).layers],
        decompose(ann, convert(ann, schedule="layer", chunk=3), batches, TS).layers,
        decompose(ann, convert(ann, fold_threshold=True), batches, TS).layers,
        decompose(ann, convert(ann), joined, TS).layers,
    ):
        assert len(other) == len(whole.layers)
        for a, b in zip(whole.layers, other, strict=True):
            assert (a.path, a.timesteps) == (b.path, b.timesteps)
            for figure in ("mean", "share", "size", "offset_spikes"):
                same(list(getattr(a, figure).values()), list(getattr(b, figure).values()), rtol=1e-9, atol=1e-12)
            assert (a.residual, a.silent, a.saturated) == (b.residual, b.silent, b.saturated)


def test_leaves_everything_as_it_was(ann, batches):
    snn = convert(ann, schedule="layer")
    ann.train()
    before, images = copy.deepcopy(ann.state_dict()), batches[0][0]
    logits = snn(images, 4)
    decompose(ann, snn, batches, [4])
    assert (ann.training, snn.simulation.schedule) == (True, "layer")
    same(snn(images, 4), logits)
    same(dict(ann.state_dict()), dict(before))
    assert not any(module._forward_hooks or module._forward_pre_hooks for net in (ann, snn) for module in net.modules())


def test_the_ladder_is_made_of_networks(ann, batches):
    errors = decompose(ann, convert(ann), batches, TS)
    assert errors.images == 12
    assert errors.ann == accuracy_of(ann, batches)
    for t in TS:
        assert errors.snn[t] == accuracy_of(lambda x, t=t: convert(ann)(x, t).mean(0), batches)
        requantized = copy.deepcopy(ann)
        for module in requantized.modules():
            if isinstance(module, QCFS):
                module.levels = t
        assert errors.even[t] == accuracy_of(requantized, batches)
        drops = errors.drops(t)
        assert sum(drops.values()) == pytest.approx(errors.ann - errors.snn[t])


def accuracy_of(network, batches) -> float:
    x, y = torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])
    return (network(x).argmax(-1) == y).double().mean().item()


def test_many_timesteps_end_at_the_limit(ann, batches):
    clipped = copy.deepcopy(ann)
    for module in clipped.modules():
        if isinstance(module, QCFS):
            module.levels = 2**20
    assert decompose(ann, convert(ann), batches, [1]).limit == accuracy_of(clipped, batches)


def test_clipped_is_the_ann_below_the_thresholds(ann, relu, batches):
    """A network that was trained with its thresholds is clipped already."""
    assert decompose(ann, convert(ann), batches, [1]).clipped == accuracy_of(ann, batches)
    half = lambda samples, levels: samples.amax(-1) / 4  # noqa: E731
    snn = threshold.convert(relu, batches, neuron=IntegrateFire, rule=half)
    limited = copy.deepcopy(relu)
    for path, neuron in snn.neurons().items():
        limited.set_submodule(path, nn.Hardtanh(0, neuron.threshold))
    errors = decompose(relu, snn, batches, [1])
    assert errors.clipped == errors.limit == accuracy_of(limited, batches)


def test_waiting_leaves_no_unevenness(ann, batches):
    errors = decompose(ann, parallel.convert(ann, []), batches, TS)
    for layer in errors.layers:
        assert layer.size["unevenness"] == 0
        assert layer.offset_spikes == {-2: 0, -1: 0, 0: 1, 1: 0, 2: 0}
    assert errors.even == errors.snn
    assert all(layer.size["total"] == 0 for layer in errors.at(4))  # T = L


def test_more_images_than_a_cache_holds(ann, batches, monkeypatch):
    whole = decompose(ann, parallel.convert(ann, []), batches, TS)
    monkeypatch.setattr("snnconv.spiking.time_loop.IN_CACHE", 16)
    assert decompose(ann, parallel.convert(ann, []), batches, TS).layers == whole.layers


def test_of_a_trained_network_only_a_mismatch_of_levels_is_quantization(ann, batches):
    errors = decompose(ann, convert(ann), batches, [2, 4])
    assert all(layer.size["clipping"] == 0 for layer in errors.layers)
    assert all(layer.size["quantization"] == 0 for layer in errors.at(4))
    assert any(layer.size["quantization"] > 0 for layer in errors.at(2))


def test_smaller_thresholds_clip_more_and_quantize_less(relu, batches):
    def converted(share: float):
        rule = lambda samples, levels: share * samples.amax(-1)  # noqa: E731
        return decompose(relu, threshold.convert(relu, batches, neuron=IntegrateFire, rule=rule), batches, [4])

    loose, tight = converted(1.0), converted(0.25)
    assert all(layer.size["clipping"] == 0 for layer in loose.layers)
    first_loose, first_tight = loose.at(4)[0], tight.at(4)[0]
    assert first_tight.size["clipping"] > 0
    assert first_tight.size["quantization"] < first_loose.size["quantization"]
    assert first_tight.saturated > first_loose.saturated


def test_several_spikes_a_step_raise_the_ceiling(relu, batches):
    largest = lambda samples, levels: samples.amax(-1) / 2  # noqa: E731
    binary = threshold.convert(relu, batches, neuron=IntegrateFire, rule=largest)
    bursts = burst.convert(relu, batches, gamma=2, v_initial=0.5, rule=largest)
    assert decompose(relu, binary, batches, [4]).at(4)[0].size["clipping"] > 0
    assert all(layer.size["clipping"] == 0 for layer in decompose(relu, bursts, batches, [4]).layers)


def test_steps_of_observation_do_not_count(ann, batches):
    """The first layer's current is constant, so observed or not, it does what it is meant to do."""
    errors = decompose(ann, srp.convert(ann, [], warmup=3), batches, TS)
    for t in TS:
        assert errors.at(t)[0].size["propagated"] == errors.at(t)[0].size["unevenness"] == 0


def test_only_so_many_images(ann, batches):
    assert decompose(ann, convert(ann), batches, [1], images=8).images == 8
    assert decompose(ann, convert(ann), batches, [1], images=100).images == 12


def test_refuses_what_has_no_mean_current(ann, batches):
    with pytest.raises(ValueError, match="only the first steps"):
        decompose(ann, st_bif.convert(ann, []), batches, [4])
    with pytest.raises(ValueError, match="there are none"):
        decompose(ann, convert(ann), [], [4])


def test_a_neuron_without_a_node_is_measured_too(ann, batches):
    """The protocol asks for a module, not for a class of ours."""

    class Bare(nn.Module):
        def __init__(self, threshold: float) -> None:
            super().__init__()
            self.threshold, self.inner = threshold, IntegrateFire(threshold)

        def forward(self, current):
            return self.inner(current)

    bare = decompose(ann, qcfs.convert(ann, [], neuron=Bare), batches, [4]).at(4)
    for a, b in zip(bare, decompose(ann, convert(ann), batches, [4]).at(4), strict=True):
        assert (a.mean, a.share, a.offset_spikes) == (b.mean, b.share, b.offset_spikes)
        assert a.residual is None


def test_accuracy_agrees_with_evaluation(ann, tiny_batches):
    data = tiny_batches(16, 4)
    small = nn.Sequential(copy.deepcopy(ann).float())
    assert decompose(small, convert(small), data, [2]).ann == accuracy(small, data)


@pytest.mark.long
def test_processes_add_up_to_one(exact_network, tmp_path):
    """Two take every second image of calibration images, too, which both of them have."""
    ann = exact_network("plain", lambda: QCFS(4), seed=3)
    _one_of(0, 1, ann, str(tmp_path))
    torch.multiprocessing.spawn(_one_of, (2, ann, str(tmp_path)), nprocs=2)
    alone, first, second = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("1-0", "2-0", "2-1"))
    assert first == second
    assert alone["images"] == first["images"] == [7] * 2
    same(first["figures"], alone["figures"], rtol=1e-9, atol=1e-12)


def _one_of(rank: int, world: int, ann: nn.Module, folder: str) -> None:
    """A process of `world`: explains, and writes what it found."""
    torch.set_num_threads(1)
    if world > 1:
        torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    images = torch.randint(256, (12, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    none, all_ = (Batches(images[:n], torch.arange(n) % 3, 5, [0.5], [0.25], everywhere=True) for n in (0, 12))
    data = Splits(train=none, valid=none, calibration=all_, test=none)
    costs = {"some": Costs(mac=1.0, accumulate=1.0)}
    found = explain_run(ann.float(), convert(ann.float()), data, [1, 4], images=7, costs=costs)
    figures = [*found.errors.snn.values(), *found.errors.even.values(), found.errors.ann, found.errors.limit]
    figures += [value for layer in found.errors.layers for value in (*layer.share.values(), layer.silent)]
    figures += [count for counts in found.energy.operations.accumulates.values() for count in counts.values()]
    content = {"images": [found.images, found.errors.images], "figures": figures}
    Path(folder, f"{world}-{rank}.json").write_text(json.dumps(content))


def test_thresholds_that_depend_on_t_clip_at_each_t_by_themselves(relu, batches):
    def at(timesteps):
        network = threshold.convert(relu, batches, neuron=IntegrateFire, rule=rule(timesteps)).network
        return network

    rule = lambda t: lambda samples, levels: samples.amax(-1) * t / 16  # noqa: E731
    snn = SpikingModel(at(8), timing=Timing(anytime=False), for_timesteps=at)
    batches = [(x, relu(x).argmax(-1)) for x, _ in batches]
    together = decompose(relu, snn, batches, [1, 8])
    for t in (1, 8):
        alone = decompose(relu, snn, batches, [t])
        assert together.clipped_at[t] == alone.clipped
        assert together.drops(t) == alone.drops(t)
    assert together.limit == alone.limit
    assert together.clipped_at[1] < together.clipped_at[8]


def test_rounded_weights_do_not_round_sums(ann, batches):
    """In bf16 a running sum of θ = 1.1 loses what is added to it."""
    neuron = IntegrateFire(1.1)
    snn = SpikingModel(nn.Sequential(OverTime(neuron)), Latency())
    current = torch.full((1, 1, 1), 1.0, dtype=torch.bfloat16)
    even = Even(neuron, snn, 400)(current)
    assert even.dtype == torch.bfloat16
    assert even.item() == pytest.approx(1.0, rel=0.01)


def test_keeps_no_more_than_it_measures(relu, exact_images):
    """States of copies are released, and images that are large come in small parts."""
    snn = threshold.convert(
        relu, [(exact_images(6).double(), None)], neuron=IntegrateFire, rule=lambda s, levels: s.amax(-1)
    )
    neuron = next(iter(snn.neurons().values()))
    even = Even(neuron, snn, 3)
    even(torch.ones(1, 6, 4, 4, 4))
    assert not isinstance(even.neuron.node.v, torch.Tensor)
    large = [(torch.zeros(9, 1, 512, 512), torch.zeros(9))]
    assert [len(x) for x, _ in _small(large, 8, 100)] == [4, 4]
    assert [len(x) for x, _ in _small(large, 8, 3)] == [3, 3, 2]


@pytest.mark.parametrize("folded", [True, False])
def test_the_closed_form_is_what_the_neuron_does(ann, folded):
    snn, current = convert(ann, fold_threshold=folded), torch.randint(-40, 40, (1, 50, 4, 1, 1)).double() / 16
    for neuron in snn.neurons().values():
        for t in TS:
            counted, even = (kind(current) for kind in (Counted(neuron, t), Even(neuron, snn, t)))
            assert torch.equal(counted, even)
    assert isinstance(evenly(neuron, snn, 4), Counted)


@pytest.mark.parametrize(("v_initial", "closed"), [(-0.3, False), (0.0, True), (1.0, True), (1.5, False)])
def test_constant_currents_are_counted_as_the_neuron_does_for_every_initial_potential(v_initial, closed):
    """Below 0, the first spikes of a strong current are missing; above θ, a spike precedes a negative current."""
    snn = SpikingModel(nn.Sequential(OverTime(IntegrateFire(1.0, v_initial))), Latency())
    (neuron,), current = snn.neurons().values(), torch.arange(-48, 48).double().view(1, -1, 1) / 32
    for t in TS:
        assert torch.equal(evenly(neuron, snn, t)(current), Even(neuron, snn, t)(current))
    differs = any(not torch.equal(Counted(neuron, t)(current), Even(neuron, snn, t)(current)) for t in TS)
    assert (isinstance(watch("path", neuron, snn, TS), ConstantCurrentWatch), differs) == (closed, not closed)


@pytest.mark.parametrize("theta", [1.1, torch.tensor([0.4, 1.1, 2.0])])
def test_the_closed_form_measures_what_copies_measure(theta):
    """Of a neuron whose current varies, with one θ or one per channel."""
    neuron, snn = IntegrateFire(theta), SpikingModel(nn.Sequential(OverTime(IntegrateFire(theta))), Latency())
    z, noise = (
        torch.randn(size, generator=torch.Generator().manual_seed(0)).double() for size in ((20, 3, 5), (8, 20, 3, 5))
    )
    rows = []
    for kind in (Watch, ConstantCurrentWatch):
        observer = kind("path", neuron, snn, TS)
        sj.set_step_mode(neuron, "s")
        sj.reset_net(neuron)
        observer.start(z, z.clamp(0, 3))
        with torch.no_grad():
            for current in (z + noise).unsqueeze(1):
                observer(neuron, (current,), neuron(current))
        rows.append([dict(observer.errors(t).__dict__) for t in TS])
    assert 0 < rows[0][-1]["residual"] < 1
    for simulated, closed in zip(*rows, strict=True):
        assert closed.pop("path") == simulated.pop("path")
        same(closed, simulated, rtol=1e-9, atol=1e-12)
