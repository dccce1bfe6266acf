"""An explanation as a self-contained HTML page; the report of a run contains the same sections."""

from collections.abc import Sized
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snnconv.analysis.energy import Energy
from snnconv.analysis.figures import as_data, draw_energy, draw_ladder, draw_raster, draw_shares

if TYPE_CHECKING:
    from snnconv.analysis.explanation import Explanation

TEMPLATES = Path(__file__).parent / "templates"


def environment(*folders: Path) -> Any:
    """A Jinja environment for templates in `folders`, and for the sections that explain a network (sections.html.j2)."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    pages = Environment(
        loader=FileSystemLoader([*folders, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.globals["percent"] = lambda share, digits=1: f"{100 * share:.{digits}f}"
    return pages


def page(why: "Explanation", title: str) -> str:
    """The page of one explanation."""
    return environment().get_template("explanation.html.j2").render(title=title, **section_values(why))


def section_values(why: "Explanation | None") -> dict[str, Any]:
    """The variables of sections.html.j2: explanation, T shown in detail, energies and figures."""
    focus = _focus(why) if why and why.errors else None
    return {
        "why": why,
        "focus": focus,
        "energy": why.energy.as_dict() if why else None,
        "pictures": _pictures(why, focus) if why else {},
    }


def height(layers: Sized) -> float:
    """Inches of a picture that has a row for each layer."""
    return max(2.8, 0.17 * len(layers))


def _focus(why: "Explanation") -> int:
    """The largest T whose loss has a cause, else the last T."""
    causes = [t for advice in why.advice if advice.kind == "loss" and advice.cause for t in advice.timesteps]
    return max(causes, default=why.timesteps[-1])


def _pictures(why: "Explanation", focus: int | None) -> dict[str, Any]:
    """Every picture of the sections as the address of an image, by name."""
    tall = height(why.thresholds)
    pictures: dict[str, Any] = {"raster": as_data(lambda axes: draw_raster(axes, why.trains), 5, tall)}
    if (errors := why.errors) is not None and focus is not None:
        at = errors.at(focus)
        shares = {part: [layer.share[part] for layer in at] for part in at[0].share if part != "total"}
        drops = {t: errors.drops(t) for t in why.timesteps}
        pictures["ladder"] = as_data(lambda axes: draw_ladder(axes, drops), 5, tall)
        pictures["shares"] = as_data(lambda axes: draw_shares(axes, [layer.path for layer in at], shares), 5, tall)
    draw = partial(_draw_energy, energy=why.energy)
    pictures["energy"] = {name: as_data(partial(draw, costs=name), 5, 3.2) for name in why.energy.costs}
    return pictures


def _draw_energy(axes: Any, energy: Energy, costs: str) -> None:
    snn, quantized = (
        {t: sum(each(costs, t).values()) / 1e6 for t in energy.timesteps} for each in (energy.snn, energy.quantized)
    )
    draw_energy(axes, snn, quantized, sum(energy.ann(costs).values()) / 1e6)
