"""Parts of any training program, independent of spikes: processes, seeds, files, checkpoints, configuration, tracking."""
