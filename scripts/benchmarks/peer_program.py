"""The command `scripts/benchmark.py --peers`: networks, tools and figures by its arguments."""

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from benchmarks.peer_networks import cifar10_resnet20, digits_cnn, images
from benchmarks.peer_rows import accuracy, compare
from benchmarks.peer_table import peer_table
from benchmarks.peers import PEERS
from snnconv.runtime import files

NETWORKS = {"digits": "CNN on digits", "cifar10": "ResNet-20 on CIFAR-10"}


def compare_tools(options: argparse.Namespace, facts: Mapping[str, Any]) -> None:
    """Print the table of all tools and append its rows to --json."""
    names = tuple(name for name in options.tools.split(",") if name)
    tools = [peer for peer in PEERS if peer is PEERS[0] or not names or peer.name.startswith(names)]
    if "cifar10" in options.peers and not options.weights:
        sys.exit("--peers cifar10: needs --weights resnet20-12fca82f.th (akamaster/pytorch_resnet_cifar10)")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
    for name in options.peers:
        network, data = digits_cnn() if name == "digits" else cifar10_resnet20(options.weights)
        batch = 20 if options.quick else options.batch or 100
        calibration = images(data.calibration, 100 if options.quick else 1000, 100)
        test = images(data.test, 2 * batch if options.quick else options.images, batch)
        about = {"network": NETWORKS[name], "ann_accuracy": accuracy(network, test), **facts}
        for timesteps in options.timesteps:
            rows = compare(network, calibration, test, timesteps, conversions=options.conversions, peers=tools)
            print(peer_table([row | about for row in rows]), "", sep="\n", flush=True)
            for row in rows if options.json else ():
                files.append_line(options.json, row | about)
