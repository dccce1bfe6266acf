"""The parts that any training program needs: processes, seeds, files, checkpoints, tracking.  Knows nothing of spikes."""
