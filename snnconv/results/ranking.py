"""Which row of a leaderboard is better than which: only what was measured on the same networks can tell."""

import statistics
from collections.abc import Iterable

from snnconv.results.records import Row, Sample, sample


def measured(row: Row) -> dict[tuple[int, Sample], float]:
    """Accuracy at every T on every network."""
    return {
        (int(t), sample(result)): accuracy for result in row.results for t, accuracy in result["snn_accuracy"].items()
    }


def by_class(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows of each latency class, plain first."""
    classes: dict[str, list[Row]] = {}
    for row in rows:
        classes.setdefault(row.latency_class, []).append(row)
    return {name: classes[name] for name in sorted(classes, key=lambda name: (name != "plain", name.count(","), name))}


def common(rows: Iterable[Row]) -> set[tuple[int, Sample]]:
    """The (T, network) that all of `rows` have; without any they cannot be ranked."""
    return set.intersection(*(set(measured(row)) for row in rows))


def ranked(rows: Iterable[Row]) -> list[Row]:
    """Class by class, the best first by mean accuracy over what is common."""
    order = []
    for members in by_class(rows).values():
        shared = sorted(common(members), key=str)
        order += sorted(members, key=lambda row: -sum(measured(row)[at] for at in shared))
    return order


def leads(row: Row, t: int, rows: Iterable[Row]) -> bool:
    """At T = t, was `row` measured on a network of some rival in its class, and is none better on those that both have?"""
    own, compared = measured(row), False
    for rival in by_class(rows)[row.latency_class]:
        other = measured(rival)
        shared = sorted((at for at in own.keys() & other.keys() if at[0] == t), key=str)
        if rival is row or not shared:
            continue
        compared = True
        if statistics.fmean(own[at] for at in shared) < statistics.fmean(other[at] for at in shared):
            return False
    return compared
