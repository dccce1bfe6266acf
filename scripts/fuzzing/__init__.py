"""Random inputs for the whole program: networks from a grammar, damaged files."""
