"""Markdown tables for deployment: stages of compression, networks in integers, quantized ANNs beside spikes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from snnconv.results.records import Baseline, Evaluation, IntegerResult, Result
from snnconv.results.tables import markdown


def ladders(results: Iterable[Result]) -> str:
    """Markdown: what stages of compression cost and gain (scripts/compress.py); operations and energy of one image.

    Accumulates and energy are those at the largest T that every row has; in brackets, the share of what the network that a ladder
    began with has.  With several seeds, a column says which.  ValueError if there is no such result.
    """
    rows = [(one, one.compression) for one in results if one.compression]
    several = len({one.seed for one, _ in rows}) > 1
    times = sorted({t for one, _ in rows for t in one.snn_accuracy})
    if not rows:
        raise ValueError("ladders: no result of scripts/compress.py among these")
    tables = list(rows[0][1]["energy"])
    last = max(set.intersection(*(set(facts["accumulates"]) for _, facts in rows)), key=int)
    lines, shown, begun = [], set(), {one.seed: facts for one, facts in reversed(rows)}
    for one, facts in rows:
        if not facts["stages"]:
            begun[one.seed] = facts
        if (key := (_network(one), tuple(facts["stages"]))) in shown:  # where several ladders begin
            continue
        shown.add(key)
        first = begun[one.seed]
        left = {key: f" ({facts[key] / first[key]:.0%})" for key in ("macs", "nonzero")}
        accumulates, share = facts["accumulates"][last], facts["accumulates"][last] / first["accumulates"][last]
        energies = ((table["snn"][last], table["ann"]) for table in (facts["energy"][name] for name in tables))
        lines.append([
            " → ".join(facts["stages"]) or "whole", str(facts["epochs"]) if facts["stages"] else "–", *[str(one.seed)] * several,
            _percent(one.ann_accuracy), *[_percent(one.snn_accuracy.get(t)) for t in times],
            f"{facts['nonzero']:,}{left['nonzero']}", f"{facts['bits'] / 8192:.0f}",
            f"{facts['macs'] / 1e6:.2f}{left['macs']}", f"{accumulates / 1e6:.2f} ({share:.0%})",
            *[f"{_micro(snn)} / {_micro(ann)}" for snn, ann in energies],
        ])  # fmt: skip
    operations = "M MACs", f"M accumulates, T={last}"
    head = [
        "stages",
        "epochs of each",
        *["seed"] * several,
        "ANN",
        *[f"T={t}" for t in times],
        "weights ≠ 0",
        "KiB",
        *operations,
    ]
    return markdown([*head, *[f"µJ SNN, T={last} / ANN, {name}" for name in tables]], lines)


def integers(results: Iterable[IntegerResult]) -> str:
    """Markdown: networks in integers (scripts/integerize.py) beside the float network that they are made of."""
    rows = sorted(results, key=lambda one: one.seed)
    times = sorted({t for one in rows for t in one.accuracy["integer"]}, key=int)
    several = len({one.seed for one in rows}) > 1
    lines: list[Sequence[str]] = []
    for one in rows:
        curve, widths, golden = one.accuracy, one.membrane_bits.values(), one.golden
        seed = [str(one.seed)] if several else []
        if "float" in curve:
            cells = [_percent(curve["float"].get(t)) for t in times]
            lines.append(["float", _trained(one), *seed, *cells, "32", f"{one.float_bytes / 1024:.0f}", "–"])
        compared = f"{golden['differing_spikes']} on {golden['images']} images"
        cells = [_percent(curve["integer"].get(t)) for t in times]
        size = f"{one.weight_bytes / 1024:.0f}"
        lines.append([_name(one.integer), _trained(one), *seed, *cells, f"{min(widths)}–{max(widths)}", size, compared])
    head = [
        "weights",
        "trained with",
        *["seed"] * several,
        *[f"T={t}" for t in times],
        "membrane bits",
        "KiB",
        "spikes that differ",
    ]
    return markdown(head, lines)


def quantized(baselines: Iterable[Baseline], results: Iterable[Result]) -> str:
    """Markdown: quantized ANNs (scripts/baseline.py) beside the SNN at T = 2^bits − 1, where it was evaluated; energy in µJ."""
    spiking = list(results)
    rows = sorted(baselines, key=lambda one: (one.baseline, -one.activation_bits, -one.weight_bits))
    tables = list(dict.fromkeys(name for one in rows for name in one.energy or {}))
    lines = []
    for one in rows:
        t = 2**one.activation_bits - 1
        snn = next((other for other in spiking if t in other.snn_accuracy and _network(other) == _network(one)), None)
        costs = ((snn and snn.explanation) or {}).get("energy", {}).get("tables", {})
        pairs = [
            f"{_micro((one.energy or {}).get(name))} / {_micro(costs.get(name, {}).get('snn', {}).get(str(t)))}"
            for name in tables
        ]
        lines.append([
            one.baseline, str(one.weight_bits), str(one.activation_bits), _percent(one.accuracy), f"{one.size_bytes / 1024:.0f}",
            str(t), f"{_percent(snn.snn_accuracy[t])} ({snn.method})" if snn else "–", *pairs,
        ])  # fmt: skip
    head = ["quantized ANN", "weight bits", "activation bits", "accuracy", "KiB", "T = 2^bits − 1", "SNN at T"]
    return markdown([*head, *[f"µJ ANN / SNN, {name}" for name in tables]], lines)


def _network(one: Evaluation) -> str | None:
    return (one.network or {}).get("weights")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"


def _micro(pj: float | None) -> str:
    return "–" if pj is None else f"{pj / 1e6:.3g}"


def _name(settings: Mapping[str, Any]) -> str:
    bits = settings["bits"]
    name = "ternary" if bits == 2 else bits.replace("_", " ") if isinstance(bits, str) else f"int{bits}"
    clipped = "" if settings["membrane_bits"] is None else f", membranes of {settings['membrane_bits']} bits"
    name += ", other bits in some layers" if settings.get("layers") else ""
    return f"{name}, a scale for each {'channel' if settings['per_channel'] else 'layer'}{clipped}"


def _trained(one: IntegerResult) -> str:
    if not one.weights or not one.weights["train"]:
        return "float"
    return f"{one.weights['bits']} bits" + (", other bits in some layers" if one.weights.get("layers") else "")
