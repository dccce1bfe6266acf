"""Non-linear layers that are no neurons, computed over time: one a file; conf/operators/ chooses."""
