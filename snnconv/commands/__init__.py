"""Commands, one per file: from the configuration of a run to its results.  `snnconv.cli` starts them."""

COMMANDS = {
    "train": "train a network, convert it to a spiking network, show accuracy against timesteps",
    "evaluate": "convert and evaluate a trained network again, with other methods or settings",
    "check": "show the conversion of each layer, before training",
    "compress": "compress a trained network in stages, with training after each stage",
    "integerize": "convert a trained network to an integer spiking network",
    "baseline": "quantize a trained network without spikes, for comparison",
    "export": "export a trained network to other programs: NIR, ONNX, C, Verilog",
    "leaderboard": "rank the results of many runs",
}
