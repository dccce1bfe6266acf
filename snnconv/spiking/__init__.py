"""Simulation of spiking networks over time: neurons, the time loop, accuracy at every timestep."""
