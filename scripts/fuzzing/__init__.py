"""Random inputs of the whole program: networks from a grammar, damaged files."""
