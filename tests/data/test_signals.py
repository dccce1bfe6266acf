"""Signals: the synthetic set can be learned and is always the same; spoken words are read from WAV files."""

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from scipy.io import wavfile

from snnconv.data.speech import find_words, log_mel, speech_commands

RATE = 8000
PLAIN = {"calibration": 100, "batch_size": 4, "seed": 0, "device": "cpu"}


def test_the_synthetic_signals_are_the_same_every_time(compose_config):
    cfg = compose_config(
        "data=signals", "device=cpu", "data.train=40", "data.test=8", "data.valid=8", "data.calibration=8"
    )
    one, two = (instantiate(cfg.data) for _ in range(2))
    assert one.test.images.shape == (8, 1, 256)
    assert one.test.labels.tolist() == [0, 1, 2, 3] * 2
    assert torch.equal(one.train.images, two.train.images)


def test_classes_differ_in_what_they_are_named_for(compose_config):
    """Peaks are counted by hand: a fast rhythm has more of them."""
    cfg = compose_config(
        "data=signals",
        "device=cpu",
        "data.train=400",
        "data.test=8",
        "data.valid=0",
        "data.calibration=8",
        "data.noise=0",
    )
    data = instantiate(cfg.data).train
    signals = data.images[:, 0]
    signals = signals / signals.amax(1, keepdim=True)
    inside = signals[:, 1:-1]
    peaks = ((inside > 0.6) & (inside >= signals[:, :-2]) & (inside > signals[:, 2:])).sum(1).float()
    counts = [peaks[data.labels == kind].mean().item() for kind in range(4)]
    assert counts[1] > 1.5 * counts[0]
    above = [(signals[data.labels == kind] > 0.5).float().mean().item() for kind in range(4)]
    assert above[3] > 1.8 * above[0]


def tone(path, hertz, seconds=0.5, dtype=np.int16):
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE)
    wavfile.write(path, RATE, (wave * 20000).astype(dtype))


@pytest.fixture
def words(tmp_path):
    folder = tmp_path / "speech_commands"
    for number, word in enumerate(("left", "right")):
        for n in range(4):
            tone(folder / word / f"{n}.wav", 500 + 1500 * number + 10 * n)
    tone(folder / "_background_noise_" / "hum.wav", 50)
    (folder / "testing_list.txt").write_text("left/0.wav\nright/0.wav\n")
    (folder / "validation_list.txt").write_text("left/1.wav\nright/1.wav\n")
    return tmp_path


def test_spoken_words_are_divided_as_published(words):
    facts = find_words(root=str(words), class_names=None, bands=20)
    assert (facts["class_names"], facts["num_classes"], facts["input_shape"]) == (["left", "right"], 2, [20, 101])
    data = speech_commands(str(words), bands=20, **facts, **PLAIN)
    assert [data.train.count, data.valid.count, data.test.count] == [4, 2, 2]
    loudest = data.test.images[:, :, 10].argmax(1).tolist()
    assert loudest[0] < loudest[1]  # 500 Hz, 2000 Hz


def test_energy_stands_in_the_band_of_the_tone(tmp_path):
    """The mel scale by hand: 20 bands from 20 Hz to 4 kHz."""
    tone(tmp_path / "a.wav", 1000)
    mel = [2595 * np.log10(1 + hertz / 700) for hertz in (20, 1000, 4000)]
    expected = 21 * (mel[1] - mel[0]) / (mel[2] - mel[0]) - 1
    assert abs(log_mel(tmp_path / "a.wav", 20)[:, 10].argmax().item() - expected) < 1


def test_wrong_recordings_are_named(words):
    with pytest.raises(FileNotFoundError, match=r"no testing_list.txt and validation_list.txt there"):
        find_words(root=str(words / "nowhere"), class_names=None, bands=20)
    with pytest.raises(FileNotFoundError, match=r"up: no such folder; data\.class_names"):
        find_words(root=str(words), class_names=["up"], bands=20)
    tone(words / "speech_commands" / "left" / "9.wav", 500, dtype=np.float32)
    with pytest.raises(ValueError, match=r"9\.wav: float32 .*expected one channel of 16 bits"):
        find_words(root=str(words), class_names=None, bands=20)
    (words / "speech_commands" / "left" / "9.wav").write_bytes(b"no sound")
    with pytest.raises(ValueError, match=r"9\.wav: damaged, or not a WAV file"):
        find_words(root=str(words), class_names=None, bands=20)
