"""Spiking networks as they run over time: neurons, the time loop, accuracy at every timestep."""
