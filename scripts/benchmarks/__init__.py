"""What things cost over plain arithmetic, as ratios measured in one process."""
