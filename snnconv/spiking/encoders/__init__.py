"""Encoders: the input of a spiking network at every step."""
