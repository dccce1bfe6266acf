"""Export of trained and converted networks to files for other programs; one format per module."""
