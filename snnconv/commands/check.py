"""What conversion will make of a network, layer by layer, and what stands in its way; no data needed, nothing written.

snnconv check model=resnet20 method=srp                           as train.py would build it
snnconv check model=custom model.path=my_net.py model.name=MyNet model.weights=my_net.pt      yours
snnconv check run=runs/… method=st_bif                            a trained one

Exit status 0: it can be converted; 1: it cannot.
"""

import rich
import torch
from hydra.utils import instantiate
from rich.table import Table

from snnconv.conversion.checks import Check, check
from snnconv.runtime.checkpoint import load_ann
from snnconv.runtime.run import Run


def main(run: Run) -> None:
    """One network, one method."""
    cfg = run.cfg
    ann = load_ann(cfg.run, trust=cfg.trust) if cfg.run else instantiate(cfg.model)
    noise = torch.randn(4, *cfg.data.input_shape)
    found = check(ann, instantiate(cfg.method), [(noise, torch.zeros(4).long())], calibrates=not cfg.run)
    show(found, cfg.names.method)
    raise SystemExit(bool(found.obstacles))


def show(found: Check, method: str) -> None:
    """The table, the obstacles and warnings, and the verdict."""
    table = Table()
    for column in ("layer", "kind", "output", "parameters", "what becomes of it"):
        table.add_column(column, overflow="fold", justify="right" if column == "parameters" else "left")
    for layer in found.layers:
        style = "red" if layer.becomes.startswith("obstacle") else None
        shape = "–" if layer.shape is None else "×".join(map(str, layer.shape))
        table.add_row(layer.path, layer.name, shape, f"{layer.parameters:,}", layer.becomes, style=style)
    say = rich.get_console().print
    if found.layers:
        say(table)
    for kind, style, texts in (("Obstacle", "red", found.obstacles), ("Warning", "yellow", found.warnings)):
        for number, text in enumerate(texts, 1):
            say(f"{kind} {number}: {text}", style=style, markup=False, highlight=False, soft_wrap=True)
    verdict = f"cannot be converted by method={method}" if found.obstacles else f"can be converted by method={method}"
    ending = f"; {found.advice()}" if found.advice() else ""
    say(f"{found.network} {verdict}{ending}.", markup=False, highlight=False, soft_wrap=True)
