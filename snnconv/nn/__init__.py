"""Networks: activations, models, and their graphs (`graph/`: tracing and rewriting)."""
