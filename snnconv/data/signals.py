"""Signals [C, L] for one-dimensional convolutions: a synthetic data set similar to electrocardiograms."""

from typing import Any

import numpy as np
import torch

from snnconv.data.splits import Pair, Splits, cut

SHORTEST = 32  # samples per signal
RHYTHMS = ("normal", "fast", "irregular", "wide beats")


def ecg(*, train: int, test: int, length: int, noise: float, class_names: Any = None, **options: Any) -> Splits:
    """Synthetic signals [1, `length`], similar to electrocardiograms, as `Splits`.

    Four classes, which differ in shape and distance of the beats: normal, fast, irregular (no P wave), and wide beats.  Rate,
    phase, amplitude and noise are random for every signal.  No data of patients.
    """
    if type(length) is not int or length < SHORTEST:
        raise ValueError(f"data.length={length}: must be an integer of at least {SHORTEST}")
    generator = np.random.default_rng(0)
    return cut("ecg", _draw(train, length, noise, generator), _draw(test, length, noise, generator), **options)


def _draw(count: int, length: int, noise: float, generator: np.random.Generator) -> Pair:
    labels = torch.arange(count) % len(RHYTHMS)
    signals = np.stack([_signal(RHYTHMS[label], length, noise, generator) for label in labels.tolist()])
    return torch.from_numpy(signals).float().unsqueeze(1), labels


def _signal(rhythm: str, length: int, noise: float, generator: np.random.Generator) -> np.ndarray:
    """One signal: Gaussian waves P, Q, R, S, T around every beat, on a slow drift."""
    mean = length / generator.uniform(4.0, 5.5) / (1.8 if rhythm == "fast" else 1.0)
    spread, width = (0.25 if rhythm == "irregular" else 0.03), (2.6 if rhythm == "wide beats" else 1.0)
    beat, beats = generator.uniform(0, mean), []
    while beat < length + mean:
        beats.append(beat)
        beat += mean * max(0.4, generator.normal(1, spread))
    t, signal = np.arange(length), np.zeros(length)
    scale, unit = generator.uniform(0.7, 1.3), length / 256
    waves = ((-9, 2.5, 0.0 if rhythm in ("irregular", "wide beats") else 0.18), (-2, 0.8, -0.15), (0, 1.0, 1.0), (2.2, 0.9, -0.25),
             (13, 4.0, 0.3))  # fmt: skip
    for place in beats:
        for offset, deviation, height in waves:
            signal += height * np.exp(-0.5 * ((t - place - offset * unit) / (deviation * width * unit)) ** 2)
    drift = 0.1 * np.sin(2 * np.pi * (t / length * generator.uniform(0.5, 1.5) + generator.uniform()))
    return scale * signal + drift + generator.normal(0, noise, length)
