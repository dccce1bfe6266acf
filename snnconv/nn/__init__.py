"""The networks: activations, models, and how a network is read and rewritten as a graph (`graph/`)."""
