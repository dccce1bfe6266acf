"""Measurements of the comparison with other tools: one row for each tool, network and T."""

import os
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.peers import PEERS, Batches, Peer, Simulate, attempt
from benchmarks.timing import LiveBytes

Row = dict[str, Any]


def compare(network: nn.Module, calibration: Batches, test: Batches, timesteps: int, *, conversions: int = 3,
            peers: Sequence[Peer] = PEERS) -> list[Row]:  # fmt: skip
    """Rows of all tools in one process: each round, every tool converts, or simulates the next batch of `test`, in turns.

    A ratio is the median over the rounds of the seconds of a tool divided by those of the first.
    """
    rows = {
        peer: Row(peer=peer.name, package=peer.package, version=peer.version, timesteps=timesteps) for peer in peers
    }
    simulations = _convert(rows, network, calibration, timesteps, conversions)
    _warm_up(rows, simulations, test[0][0])
    seconds = _simulate(rows, simulations, test)
    for peer in simulations:
        first = seconds[next(iter(simulations))]
        rows[peer]["ratio"] = statistics.median(a / b for a, b in zip(seconds[peer], first, strict=True))
        rows[peer]["images_per_second"] = statistics.median(
            len(x) / s for (x, _), s in zip(test, seconds[peer], strict=True)
        )
    facts = {"images": sum(len(x) for x, _ in test), "batch": len(test[0][0]), "load": round(os.getloadavg()[0], 1)}
    return [row | facts for row in rows.values()]


def accuracy(network: nn.Module, test: Batches) -> float:
    """Accuracy of the ANN."""
    with torch.no_grad():
        return sum(_right(network(x), y) for x, y in test) / sum(len(y) for _, y in test)


def _convert(
    rows: dict[Peer, Row], network: nn.Module, calibration: Batches, timesteps: int, conversions: int
) -> dict[Peer, Simulate]:
    """Convert with every tool, in turns; one that trains does it once."""
    simulations: dict[Peer, Simulate] = {}
    seconds: dict[Peer, list[float]] = {}
    for index in range(conversions):
        for peer, row in rows.items():
            if "reason" in row or (peer.trains and index):
                continue
            start = time.perf_counter()
            simulate, reason = attempt(lambda peer=peer: peer.convert(network, calibration, timesteps))  # type: ignore[misc]
            seconds.setdefault(peer, []).append(time.perf_counter() - start)
            if reason:
                row["reason"] = reason
            else:
                simulations[peer] = simulate
    for peer in simulations:
        rows[peer]["convert_seconds"] = statistics.median(seconds[peer])
    return simulations


def _warm_up(rows: dict[Peer, Row], simulations: dict[Peer, Simulate], images: Tensor) -> None:
    """One batch through every tool, for its peak memory; a tool that fails leaves the comparison."""
    for peer, simulate in list(simulations.items()):
        with torch.no_grad(), LiveBytes() as live:
            _, reason = attempt(lambda simulate=simulate: simulate(images))  # type: ignore[misc]
        if reason:
            rows[peer]["reason"] = reason
            del simulations[peer]
        else:
            rows[peer]["peak_mib"] = live.peak / 2**20


def _simulate(rows: dict[Peer, Row], simulations: dict[Peer, Simulate], test: Batches) -> dict[Peer, list[float]]:
    """Seconds of every batch, the tools in turns; the accuracy goes into the rows."""
    seconds: dict[Peer, list[float]] = {peer: [] for peer in simulations}
    right = dict.fromkeys(simulations, 0)
    with torch.no_grad():
        for images, labels in test:
            for peer, simulate in simulations.items():
                start = time.perf_counter()
                outputs = simulate(images)
                seconds[peer].append(time.perf_counter() - start)
                right[peer] += _right(outputs, labels)
    for peer in simulations:
        rows[peer]["accuracy"] = right[peer] / sum(len(labels) for _, labels in test)
    return seconds


def _right(outputs: Tensor, labels: Tensor) -> int:
    return int((outputs.argmax(-1) == labels).sum())
