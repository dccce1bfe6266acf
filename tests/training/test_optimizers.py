"""`fit.optimizer`: AdamW and Muon, against torch's own."""

import copy

import pytest
import torch
from torch import nn

from snnconv.nn.activations.qcfs import QCFS
from snnconv.training.loop import fit
from snnconv.training.muon import MuonAdamW, hidden_matrices, orthogonalized
from snnconv.training.optimizers import optimizer_of
from snnconv.training.settings import Fit

FIT = {"epochs": 4, "lr": 0.01, "batch_size": 8}


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 8),
        QCFS(4, 2.0),
        nn.Linear(8, 12),
        nn.ReLU(),
        nn.Linear(12, 5, bias=False),
        nn.ReLU(),
        nn.Linear(5, 3),
    )


def updates(network: nn.Module, optimizers: list[torch.optim.Optimizer], steps: int = 5) -> list[torch.Tensor]:
    """Parameters after `steps` updates on random batches."""
    torch.manual_seed(1)
    for _ in range(steps):
        network.zero_grad()
        network(torch.randn(16, 6)).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
    return [parameter.detach() for parameter in network.parameters()]


@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_is_that_of_torch_beside_adamw(nesterov):
    ours, theirs = mlp(), mlp()
    matrices = hidden_matrices(theirs)
    assert [tuple(weight.shape) for weight in matrices] == [(12, 8), (5, 12)]
    rest = [p for p in theirs.parameters() if all(p is not weight for weight in matrices)]
    muon = torch.optim.Muon(
        matrices, lr=0.01, momentum=0.9, weight_decay=0.3, nesterov=nesterov, adjust_lr_fn="match_rms_adamw"
    )
    adamw = torch.optim.AdamW(rest, lr=0.01, betas=(0.9, 0.999), weight_decay=0.3)
    settings = Fit(**FIT, optimizer="muon", weight_decay=0.3, nesterov=nesterov)
    wanted = updates(theirs, [muon, adamw])
    for parameter, reference in zip(updates(ours, [optimizer_of(ours, settings)]), wanted, strict=True):
        torch.testing.assert_close(parameter, reference, rtol=1e-5, atol=1e-6)


def test_a_kernel_is_taken_as_a_matrix():
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last))
    matrix = nn.Parameter(kernel.detach().flatten(1).clone())
    for weight in (kernel, matrix):
        weight.grad = torch.arange(108.0).sin().view(weight.shape)
        MuonAdamW([{"params": [weight], "weight_decay": 0.0, "muon": True}], 0.1, 0.9, False, None).step()
    torch.testing.assert_close(kernel.flatten(1), matrix)


@pytest.mark.parametrize("shape", [(8, 8), (4, 20), (20, 4)])
def test_singular_values_are_close_to_one(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalized(torch.randn(shape)))
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_adamw_is_that_of_torch():
    ours, theirs = mlp(), mlp()
    reference = torch.optim.AdamW(theirs.parameters(), lr=0.01, betas=(0.8, 0.999), weight_decay=0.1)
    settings = Fit(**FIT, optimizer="adamw", momentum=0.8, weight_decay=0.1)
    for parameter, wanted in zip(
        updates(ours, [optimizer_of(ours, settings)]), updates(theirs, [reference]), strict=True
    ):
        torch.testing.assert_close(parameter, wanted)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_thresholds_and_biases_have_their_own_weight_decay(name):
    settings = Fit(**FIT, optimizer=name, weight_decay=0.3, threshold_weight_decay=0.2, norm_weight_decay=0.1)
    ann = mlp()
    names = {id(parameter): key for key, parameter in ann.named_parameters()}
    decays = {names[id(p)]: g["weight_decay"] for g in optimizer_of(ann, settings).param_groups for p in g["params"]}
    assert decays == {
        key: 0.2 if "theta" in key else 0.1 if "bias" in key else 0.3 for key, _ in ann.named_parameters()
    }


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_training_goes_on_bit_for_bit(name, tiny_batches, open_tiny_run, fresh_network):
    def trained(folder: str, *epochs: int) -> nn.Module:
        for stop in epochs:
            ann = fresh_network()
            settings = Fit(**{**FIT, "epochs": stop}, optimizer=name, schedule="constant", select="last")
            fit(ann, tiny_batches(16, 8, shuffle=True), tiny_batches(8, 8), settings, open_tiny_run(folder))
        return ann

    at_once, in_parts = trained("once", 4), trained("parts", 2, 4)
    for one, other in zip(at_once.parameters(), in_parts.parameters(), strict=True):
        assert one.equal(other)
    before = copy.deepcopy(fresh_network())
    assert not any(one.equal(other) for one, other in zip(before.parameters(), at_once.parameters(), strict=True))


def test_adamw_has_no_nesterov_momentum():
    with pytest.raises(ValueError, match="optimizer=adamw has no Nesterov momentum"):
        Fit(**FIT, optimizer="adamw", nesterov=True)
