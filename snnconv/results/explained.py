"""Tables of many results: where their accuracy went, and what they cost (from the `explanation` of each)."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from snnconv.results.records import Result, gather
from snnconv.results.tables import markdown


def losses(results: Iterable[Result]) -> str:
    """Markdown: points of accuracy that clipping, quantization and unevenness cost at each T, on the images of the explanation."""
    lines = []
    for one, label in _explained(results):
        errors = one["explanation"]["errors"]
        for t in errors["snn"]:
            clipped = errors.get("clipped_at", {}).get(t, errors["clipped"])
            steps = errors["ann"], clipped, errors["even"][t], errors["snn"][t]
            figures = steps[0], *(a - b for a, b in pairwise(steps)), steps[-1], errors["limit"]
            lines.append([label, t, *(f"{100 * value:.1f}" for value in figures)])
    head = ["method", "T", "ANN", "− clipping", "− quantization", "− unevenness", "= SNN", "T → ∞"]
    return markdown(head, lines)


def energies(results: Iterable[Result]) -> str:
    """Markdown: energy of one image in µJ at each T, SNN / equally quantized ANN, and the largest T at which the SNN costs less."""
    lines: list[Sequence[str]] = []
    tables: list[str] = []
    for one, label in _explained(results):
        energy = one["explanation"]["energy"]
        tables = list(energy["tables"])
        for t, bits in energy["bits"].items():
            pairs = (
                f"{each['snn'][t] / 1e6:.3g} / {each['quantized'][t] / 1e6:.3g}" for each in energy["tables"].values()
            )
            lines.append([label, t, str(bits), *pairs])
        wins = (str(each["wins_until"]["quantized"] or "never") for each in energy["tables"].values())
        lines.append([label, "cheaper at most until T =", "", *wins])
    return markdown(["method", "T", "bits", *tables], lines)


def _explained(results: Iterable[Result]) -> list[tuple[dict[str, Any], str]]:
    """The last result of every row that was explained, and what to call it."""
    found = [(dict(row.one), f"{row.label}, {row.one['model']}") for row in gather(results)]
    return [(one, label) for one, label in found if one.get("explanation")]
