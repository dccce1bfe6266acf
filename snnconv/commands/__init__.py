"""One file a command: from the configuration of a run to its results.  `snnconv.cli` starts them."""

COMMANDS = {
    "train": "train a network, convert it to spikes, show accuracy against timesteps",
    "evaluate": "convert a trained network again, by other methods or settings",
    "check": "show what conversion makes of each layer, before anything is trained",
    "compress": "make a trained network smaller in stages, train it after each",
    "integerize": "run a trained network as a spiking network of integers",
    "baseline": "quantize a trained network without spikes, for comparison",
    "export": "write a trained network for other programs: NIR, ONNX, C",
    "leaderboard": "rank the results of many runs",
}
