"""Benchmarks: variants timed in turns, as ratios to a plain baseline."""
