"""Graphs of the operations of a network: capture, tracing, kinds of operations, rewriting, folding."""
