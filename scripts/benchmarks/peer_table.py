"""The table of experiments/peers from its rows."""

from collections.abc import Iterable, Sequence
from typing import Any

COLUMNS = ("tool", "T", "conversion (s)", "images/s", "time, ratio to snnconv", "peak MiB", "accuracy (%)")


def peer_table(rows: Iterable[dict[str, Any]]) -> str:
    """One Markdown table for each network; of several rows for the same tool and T the last counts."""
    latest = {(row["network"], row["timesteps"], row["peer"]): row for row in rows}
    parts = []
    for network in dict.fromkeys(row["network"] for row in latest.values()):
        chosen = [row for row in latest.values() if row["network"] == network]
        parts.append("\n".join([_title(chosen), "", _line(COLUMNS), _line(["---"] * len(COLUMNS)), *map(_row, chosen)]))
    return "\n\n".join(parts)


def _title(rows: Sequence[dict[str, Any]]) -> str:
    first = rows[0]
    loads = sorted(row["load"] for row in rows)
    images = ", ".join(dict.fromkeys(f"{row['images']} for T = {row['timesteps']}" for row in rows))
    return (
        f"**{first['network']}**: ANN {100 * first['ann_accuracy']:.2f} %, test images: {images}, batches of {first['batch']}, "
        f"{first['threads']} thread(s), load of the machine {loads[0]} to {loads[-1]}, commit {first['commit']}"
    )


def _row(row: dict[str, Any]) -> str:
    name = f"{row['peer']} ({row['version'] or 'not installed'})"
    if "reason" in row:
        return _line([name, row["timesteps"], row["reason"].replace("|", "/"), "", "", "", ""])
    figures = [
        f"{row['convert_seconds']:.2f}",
        f"{row['images_per_second']:.3g}",
        f"{row['ratio']:.2f}",
        f"{row['peak_mib']:.0f}",
    ]
    return _line([name, row["timesteps"], *figures, f"{100 * row['accuracy']:.2f}"])


def _line(cells: Iterable[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |"
