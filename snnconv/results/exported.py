"""Exports of a run (`export.json`): the rows of the report, and a page for one export."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from snnconv.analysis.page import environment
from snnconv.runtime import files

log = logging.getLogger(__name__)
FILE, PAGE = "export.json", "report.html"
ELSEWHERE = ("format", "method", "files", "cycles_per_image", "energy_pJ", "operations_per_image", "accumulates_per_image", "cells",
             "export", "seed", "versions", "command", "commit")  # parts of a page that are not in its table of facts  # fmt: skip


def exports_below(home: Path) -> list[dict[str, Any]]:
    """A row for each `export.json` below a run folder, oldest first, but for those of compressed networks."""
    paths = [path for path in home.rglob(FILE) if "compressed" not in path.relative_to(home).parts]
    rows = []
    for path in sorted(paths, key=lambda path: path.stat().st_mtime):
        try:
            rows.append(row(files.read_json(path)) | {"folder": os.path.relpath(path.parent, home)})
        except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
            log.warning("The report has no row for %s: %s", path, error)
    return rows


def row(record: Mapping[str, Any]) -> dict[str, Any]:
    """The values of one export that a table shows; cycles, their time and energies are those of one image, None without them.

    `energies` holds by table of costs the energy of the counted operations and the estimate for the float network, in µJ.
    """
    cycles, clock = record.get("cycles_per_image"), record["export"].get("clock_mhz")
    energies = record.get("energy_pJ") or {}
    return {
        "format": record["format"],
        "method": record.get("method"),
        "timesteps": record["export"].get("timesteps"),
        "images": record.get("images", record["export"].get("images")),  # there may be fewer test images than requested
        "size": sum(record["files"].values()),
        "cycles": mean(cycles) if cycles else None,
        "milliseconds": mean(cycles) / clock / 1e3 if cycles and clock else None,
        "clock_mhz": clock,
        "rule": energies.get("rule"),
        "energies": {
            name: {key: value / 1e6 if isinstance(value, int | float) else None for key, value in values.items()}
            for name, values in energies.items()
            if name != "rule"
        },
    }


def write_page(folder: Path, record: Mapping[str, Any]) -> None:
    """Write `report.html` of the export in `folder`, whose `export.json` holds `record`."""
    operations = {name: mean(counts) for name, counts in (record.get("operations_per_image") or {}).items()}
    facts = {name: _text(value) for name, value in record.items() if name not in ELSEWHERE and value not in (None, {})}
    template = environment(Path(__file__).parent / "templates").get_template("export.html.j2")
    text = template.render(
        record=record,
        exported=[row(record) | {"folder": os.path.relpath(folder)}],
        operations=operations,
        facts=facts,
    )
    files.write_text(folder / PAGE, text)


def _text(value: Any) -> str:
    """Nested facts without the punctuation of Python."""
    if isinstance(value, Mapping):
        return " · ".join(f"{name}: {_text(each)}" for name, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() else f"{value:.4g}"
    return str(value)
