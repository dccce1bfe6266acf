"""The optimizer of a training, with separate weight decays of weights, thresholds, norms and biases."""

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from snnconv.nn.graph.kinds import is_activation
from snnconv.training.muon import MuonAdamW, hidden_matrices
from snnconv.training.settings import Fit


def optimizer_of(ann: nn.Module, settings: Fit) -> torch.optim.Optimizer:
    """SGD, AdamW or Muon (`settings.optimizer`) for the parameters of `ann`.

    Groups: weights, thresholds, norms with biases, and biases of batch norms if `norm_bias_lr` is set; the weight decay of the
    latter is adjusted to their learning rate.  On CUDA the optimizer is fused.
    """
    groups, lr, momentum = _groups(ann, settings), settings.lr, settings.momentum
    fused = next(ann.parameters()).is_cuda or None  # None: torch chooses
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=settings.nesterov, fused=fused)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=(momentum, 0.999), fused=fused)
    return MuonAdamW(groups, lr, momentum, settings.nesterov, fused)


def _groups(ann: nn.Module, settings: Fit) -> list[dict[str, Any]]:
    """Parameter groups: learning rates and weight decays."""
    thresholds = {id(p) for m in ann.modules() if is_activation(m) for p in m.parameters()}
    shifts = {id(m.bias) for m in ann.modules() if isinstance(m, _BatchNorm)} if settings.norm_bias_lr else set()
    matrices = {id(p) for p in hidden_matrices(ann)} if settings.optimizer == "muon" else set()
    groups: dict[str, list[nn.Parameter]] = {"weight": [], "matrix": [], "threshold": [], "norm": [], "shift": []}
    for parameter in ann.parameters():
        name = "matrix" if id(parameter) in matrices else "weight" if parameter.dim() > 1 else "norm"
        name = "threshold" if id(parameter) in thresholds else "shift" if id(parameter) in shifts else name
        groups[name].append(parameter)
    weight, theta, norm = settings.weight_decay, settings.threshold_weight_decay, settings.norm_weight_decay
    theta, norm, scale = (
        weight if theta is None else theta,
        weight if norm is None else norm,
        settings.norm_bias_lr or 1.0,
    )
    decays = {"weight": weight, "matrix": weight, "threshold": theta, "norm": norm, "shift": norm / scale}
    more: dict[str, dict[str, Any]] = {"shift": {"lr_scale": scale}, "matrix": {"muon": True}}
    return [
        {"params": parameters, "weight_decay": decays[name], **more.get(name, {})}
        for name, parameters in groups.items()
        if parameters
    ]
