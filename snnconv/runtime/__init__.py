"""Parts of any training program: processes, seeds, files, checkpoints, configuration, tracking.  Independent of spikes."""
