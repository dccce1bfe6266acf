"""Spiking neurons: `neuron(threshold) -> nn.Module`, current [T, N, …] → θ·spikes [T, N, …], on a SpikingJelly node."""
