"""Channel pruning: removes whole channels from all layers that read or write them (by torch-pruning's dependency graph)."""

import copy
import logging
import warnings
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from typing import Any

from torch import Tensor, nn

from snnconv.nn.graph.kinds import is_activation
from snnconv.nn.graph.rewrite import replace_modules, set_submodule

log = logging.getLogger(__name__)
FIXED = ("slice", "pad", "split", "cat", "concat")  # operations that refer to channels by number


def prune_channels(
    network: nn.Module,
    batches: Iterable[tuple[Tensor, Any]],
    *,
    ratio: float = 0.3,
    ratios: Mapping[str, float] | None = None,
    shortcuts: bool = False,
    multiple: int = 1,
) -> nn.Module:
    """A copy of `network` in which each group of layers with shared channels loses a share `ratio`, those of smallest L2 norm.

    `ratios` sets other shares for layers whose path matches a pattern ("layer3.*.conv1"); the first matching pattern is used.
    Channels that are joined by an addition are not pruned unless `shortcuts` is true; channels that are padded or sliced by number
    are never pruned.  The number of remaining channels is a multiple of `multiple`.  Source: Fang et al., CVPR 2023 (DepGraph).

    ValueError for ratios out of range, for patterns that match no layer, and if nothing can be pruned.
    """
    ratios = {str(pattern): value for pattern, value in (ratios or {}).items()}
    for name, value in {"ratio": ratio, **ratios}.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            raise ValueError(f"compress: {name}={value!r}: must be at least 0 and below 1 (share of the channels)")
    if isinstance(multiple, bool) or not isinstance(multiple, int) or multiple < 1:
        raise ValueError(f"compress: multiple={multiple!r}: must be an integer of at least 1")
    pruning = _library()
    image = _an_image(batches, network)
    sites = {path: copy.deepcopy(m) for path, m in network.named_modules() if is_activation(m)}
    smaller = replace_modules(network, tuple({type(m) for m in sites.values()}) or nn.ReLU, _prunable)
    smaller.eval().requires_grad_()
    paths = {module: path for path, module in smaller.named_modules()}
    outputs = smaller(image).shape[-1]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Unwrapped parameters detected", module="torch_pruning")
        graph = pruning.DependencyGraph().build_dependency(smaller, example_inputs=image)
    importance, unused, unpruned, pruned = pruning.importance.GroupMagnitudeImportance(p=2), set(ratios), [], 0
    last = [module for module in smaller.modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
    for group in list(graph.get_all_groups(ignored_layers=[last], root_module_types=[nn.Conv2d, nn.Linear])):
        module, path = group[0].dep.target.module, paths[group[0].dep.target.module]
        pattern = next((pattern for pattern in ratios if fnmatch(path, pattern)), None)
        unused.discard(pattern)  # type: ignore[arg-type]
        count = len(group[0].idxs)
        leave = max(multiple, round(count * (1 - ratios.get(pattern or "", ratio)) / multiple) * multiple)
        if leave >= count:
            continue
        if (why := _fixed(group, shortcuts)) or last in [dep.target.module for dep, _ in group if _writes(dep)]:
            unpruned.append(f"{path} ({why or 'the logits'})")
            continue
        order = importance(group).argsort()[: count - leave].tolist()
        graph.get_pruning_group(module, group[0].dep.handler, order).prune()
        pruned += 1
    if unused:
        raise ValueError(f"compress: ratios for {', '.join(sorted(unused))}: no prunable layer has a matching path")
    if not pruned and any(value > 0 for value in (ratio, *ratios.values())):
        raise ValueError(
            f"{type(network).__name__}: no channels can be pruned; not prunable: {'; '.join(unpruned) or 'too few channels'}"
        )
    if unpruned:
        log.info("Layers whose channels are not pruned: %s", "; ".join(unpruned))
    for path, site in sites.items():
        for parameter, pruned_parameter in zip(
            site.parameters(), smaller.get_submodule(path).parameters(), strict=False
        ):
            parameter.data = pruned_parameter.data
        set_submodule(smaller, path, site)
    for old, new in zip(network.parameters(), smaller.parameters(), strict=True):
        new.requires_grad_(old.requires_grad)
    smaller.train(network.training)
    if (width := smaller.eval()(image).shape[-1]) != outputs:
        raise ValueError(f"{type(network).__name__}: pruning left {width} of {outputs} outputs")
    return smaller.train(network.training)


def _prunable(site: nn.Module) -> nn.Module:
    """A stand-in for an activation that torch-pruning knows; thresholds per channel are the weights of a PReLU."""
    theta = next((parameter for parameter in site.parameters() if parameter.dim() == 1), None)
    if theta is None:
        return nn.ReLU()
    stand_in = nn.PReLU(len(theta))
    stand_in.weight.data = theta.detach().clone()
    return stand_in


def _library() -> Any:
    try:
        import torch_pruning
    except ImportError as error:
        raise ValueError("channel pruning needs torch-pruning: pip install 'snnconv[prune]'") from error
    return torch_pruning


def _an_image(batches: Iterable[tuple[Tensor, Any]], network: nn.Module) -> Tensor:
    """One image, from which shapes are inferred."""
    for images, _ in batches:
        return images[:1].to(next(network.parameters()).device)
    raise ValueError(
        "compress: needs calibration images to infer shapes, and there are none; set data.calibration to 100 or more"
    )


def _fixed(group: Any, shortcuts: bool) -> str | None:
    """The reason why the channels of `group` cannot be removed; None if they can."""
    names = [name for dep, _ in group if (name := str(dep.target.name).lower()).startswith("_")]  # not of modules
    if any(word in name for name in names for word in FIXED):
        return "padded or sliced by number"
    adds = [name for name in names if "addbackward" in name]
    return "joined by an addition; shortcuts=true prunes them too" if adds and not shortcuts else None


def _writes(dep: Any) -> bool:
    return "out" in dep.handler.__name__
