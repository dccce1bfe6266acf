"""Speech Commands: spoken words as log-mel spectra."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snnconv.data.facts import facts_of, finds
from snnconv.data.splits import Pair, Splits, cut


def find_words(**settings: Any) -> dict[str, Any]:
    """Words, shape and moments of the training files."""
    words = settings["class_names"] or _words(_folder(settings["root"]))
    train, _, _ = _spoken(_folder(settings["root"]), words, settings["bands"])
    return {**facts_of(*train), "class_names": words}


@finds(find_words)
def speech_commands(root: str, *, bands: int, class_names: Any, valid: Any = None, **options: Any) -> Splits:
    """Speech Commands (Warden, 2018): words of one second as log-mel spectra [`bands`, 101], one channel per band.

    `root`/speech_commands or `root` holds a folder of WAV files for each word, testing_list.txt and validation_list.txt.
    These published lists define the test and the validation set.
    """
    folder = _folder(root)
    train, held, test = _spoken(folder, list(class_names), bands)
    calibration = min(options.pop("calibration"), len(train[0]))
    return cut("speech_commands", train, test, held=held, valid=0, calibration=calibration, **options)


def _folder(root: str) -> Path:
    for folder in (Path(root) / "speech_commands", Path(root)):
        if (folder / "testing_list.txt").is_file() and (folder / "validation_list.txt").is_file():
            return folder
    raise FileNotFoundError(f"{Path(root) / 'speech_commands'}: no testing_list.txt and validation_list.txt there or in {root}; "
                            "unpack speech_commands_v0.02.tar.gz (Google, 2018) there, or set data.root to its folder")  # fmt: skip


def _words(folder: Path) -> list[str]:
    """Words that have a folder of recordings, without `_background_noise_`."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(("_", ".")))


def _spoken(folder: Path, words: list[str], bands: int) -> tuple[Pair, Pair, Pair]:
    """Training, validation and test samples."""
    lists = {name: {*(folder / f"{name}_list.txt").read_text().split()} for name in ("validation", "testing")}
    parts: dict[str, tuple[list[Tensor], list[int]]] = {name: ([], []) for name in ("training", *lists)}
    for number, word in enumerate(words):
        if not (folder / word).is_dir():
            raise FileNotFoundError(f"{folder / word}: no such folder; data.class_names lists folders of words")
        for path in sorted((folder / word).glob("*.wav")):
            part = next((name for name, files in lists.items() if f"{word}/{path.name}" in files), "training")
            parts[part][0].append(log_mel(path, bands))
            parts[part][1].append(number)
    if empty := [name for name, (spectra, _) in parts.items() if not spectra]:
        raise ValueError(f"{folder}: no recordings for {' and '.join(empty)}; unpack the archive again")
    train, held, test = ((torch.stack(spectra), torch.tensor(labels)) for spectra, labels in parts.values())
    return train, held, test


def log_mel(path: Path, bands: int, seconds: float = 1.0) -> Tensor:
    """Logarithm of the mel spectrum of a WAV file [`bands`, frames], 25 ms windows every 10 ms; ValueError naming the file."""
    from scipy.io import wavfile

    try:
        rate, samples = wavfile.read(path)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path}: damaged, or not a WAV file ({error})") from error
    if samples.dtype != np.int16 or samples.ndim != 1:
        raise ValueError(f"{path}: {samples.dtype} {list(samples.shape)}; expected one channel of 16 bits")
    wave = torch.zeros(int(seconds * rate))
    part = torch.from_numpy(samples[: len(wave)].astype(np.float32)) / 2**15
    wave[: len(part)] = part
    size, hop = int(0.025 * rate), int(0.01 * rate)
    spectrum = torch.stft(wave, size, hop, window=torch.hann_window(size), return_complex=True).abs().square()
    return (_mel(bands, size // 2 + 1, rate) @ spectrum + 1e-6).log()


def _mel(bands: int, bins: int, rate: int) -> Tensor:
    """Triangular filters [bands, bins], evenly spaced on the mel scale from 20 Hz to half the rate."""
    low, high = (2595 * np.log10(1 + hertz / 700) for hertz in (20, rate / 2))
    edges = 700 * (10 ** (np.linspace(low, high, bands + 2) / 2595) - 1)
    frequencies = np.linspace(0, rate / 2, bins)
    rise = (frequencies - edges[:-2, None]) / np.diff(edges)[:-1, None]
    fall = (edges[2:, None] - frequencies) / np.diff(edges)[1:, None]
    return torch.from_numpy(np.minimum(rise, fall).clip(0)).float()
