"""Data sets as `Splits`: the four roles of data, on the device where the network runs."""
