"""Networks as graphs of operations: tracing, kinds of operations, rewriting, folding."""
