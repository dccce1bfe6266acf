"""The comparison with other tools: tools in turns on the same images, and a reason in the row of one that fails."""

import pytest
import torch
from benchmarks import peer_rows
from benchmarks.peer_rows import compare
from benchmarks.peer_table import peer_table
from benchmarks.peers import PEERS, Peer
from torch import nn

IMAGES, LABELS = torch.eye(6), torch.arange(6)
TEST = list(zip(IMAGES.split(2), LABELS.split(2), strict=True))


def peer(name, events, simulate=lambda x: x, **options):
    """A tool that records what it does."""

    def convert(network, batches, timesteps):
        events.append(f"convert {name}")

        def run(images):
            events.append(name)
            return simulate(images)

        return run

    return Peer(name, "torch", convert, **options)


def test_tools_run_in_turns_and_the_accuracy_is_theirs():
    events = []
    wrong = peer("wrong", events, lambda x: x.roll(1, -1), trains=True)
    rows = compare(nn.Identity(), [], TEST, 4, conversions=2, peers=[peer("right", events), wrong])
    assert events == ["convert right", "convert wrong", "convert right", *["right", "wrong"] * 4]
    assert [(row["peer"], row["accuracy"]) for row in rows] == [("right", 1.0), ("wrong", 0.0)]
    assert (rows[0]["ratio"], rows[0]["images"], rows[0]["batch"], rows[0]["timesteps"]) == (1.0, 6, 2, 4)


def test_a_ratio_is_that_of_the_rounds(monkeypatch):
    seconds = {"first": [1.0, 2.0, 9.0], "second": [2.0, 6.0, 9.0]}
    monkeypatch.setattr(
        peer_rows, "_simulate", lambda rows, simulations, test: {p: seconds[p.name] for p in simulations}
    )
    first, second = compare(nn.Identity(), [], TEST, 4, conversions=1, peers=[peer("first", []), peer("second", [])])
    assert (first["ratio"], second["ratio"], second["images_per_second"]) == (1.0, 2.0, 2 / 6)


def test_a_tool_that_fails_has_a_row_with_the_reason():
    def missing(network, batches, timesteps):
        raise ImportError("No module named 'nothing'")

    def refuse(images):
        raise ValueError("no such shape\nand more")

    peers = [peer("good", []), Peer("missing", "nothing-like-it", missing), peer("refuses", [], refuse)]
    good, missing, refuses = compare(nn.Identity(), [], TEST, 4, conversions=1, peers=peers)
    assert "reason" not in good
    assert (missing["reason"], missing["version"]) == ("not installed: No module named 'nothing'", None)
    assert refuses["reason"] == "ValueError: no such shape"
    about = {"network": "net", "ann_accuracy": 0.5, "threads": 1, "commit": "abc"}
    table = peer_table([row | about for row in (good, missing, refuses)])
    assert "| missing (not installed) | 4 | not installed: No module named 'nothing' |" in table
    assert "**net**: ANN 50.00 %, test images: 6 for T = 4, batches of 2, 1 thread(s)" in table
    assert table.count("\n") == 6


def test_the_last_row_of_a_tool_counts():
    row = {
        "network": "net",
        "peer": "tool",
        "version": "1",
        "timesteps": 8,
        "ann_accuracy": 1.0,
        "threads": 1,
        "commit": "a",
        "images": 6,
        "batch": 2,
        "load": 0.5,
        "convert_seconds": 1,
        "images_per_second": 10,
        "ratio": 1,
        "peak_mib": 2,
    }
    table = peer_table([row | {"accuracy": 0.1}, row | {"accuracy": 0.9}])
    assert "90.00" in table
    assert "10.00" not in table


@pytest.mark.long
@pytest.mark.filterwarnings("default")
def test_every_tool_that_is_installed_simulates_the_same_network():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 6)
    ).eval()
    images = torch.rand(40, 1, 8, 8)
    with torch.no_grad():
        labels = network(images).argmax(-1)
    batches = [(images, labels)]
    rows = compare(network, batches, batches, 32, conversions=1)
    assert [row["peer"] for row in rows] == [peer.name for peer in PEERS]
    assert "reason" not in rows[0]
    for row in rows:
        assert row.get("reason", "not installed").startswith("not installed") or row["package"] in (
            "sinabs",
            "snntorch",
        ), row
        if "reason" not in row and "one spike" not in row["peer"] and row["package"] != "neurocuda":
            assert row["accuracy"] > 0.5, row
