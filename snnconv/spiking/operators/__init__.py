"""Operators: non-linear layers that are not neurons, computed over time, one per file; conf/operators/ selects them."""
