"""Training an ANN from a Python program: `fit`, and the history that it returns."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from snnconv.data.loaders import Loader, device_of
from snnconv.runtime import console
from snnconv.runtime.seed import seed_everything
from snnconv.runtime.settings import require_known
from snnconv.spiking.tasks import CLASSIFY, Task
from snnconv.training import loop
from snnconv.training.settings import Fit


@dataclass
class History:
    """Results of a training for each epoch: a list of `rows`, and facts about the selected epoch.

    A row has `epoch` (from 0), `loss`, `train_accuracy`, `lr`, `seconds` since the start and, with validation data,
    `valid_accuracy`; accuracies are fractions in 0…1.  `thresholds` has the mean θ of each activation by path, if θ is trained.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    kept: dict[str, Any] = field(default_factory=dict)  # epoch (from 1), valid_accuracy
    seconds: dict[str, float] = field(default_factory=lambda: {"train": 0.0}, repr=False)
    folder: None = field(default=None, repr=False)
    _weights: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def __getitem__(self, name: str) -> list[Any]:
        """One column, such as history["loss"]."""
        return [row[name] for row in self.rows]

    def load_state(self) -> None:
        """None, because a training in memory always starts from the beginning."""

    def save_state(self, state: Mapping[str, Any]) -> None:
        """Do nothing; a training in memory cannot be resumed."""

    def best(self) -> dict[str, Any] | None:
        """The facts of the best network so far, or None."""
        return self.kept or None

    def save_ann(self, ann: nn.Module, facts: Mapping[str, Any]) -> None:
        """Keep the weights of `ann` in memory."""
        self.kept = dict(facts)
        self._weights = {name: tensor.detach().clone() for name, tensor in ann.state_dict().items()}

    def restore_best(self, ann: nn.Module) -> None:
        """Load the weights of the selected epoch into `ann`."""
        if self._weights:
            ann.load_state_dict(self._weights)
        self._weights = {}

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Take one epoch's numbers."""
        self.rows.append(dict(metrics))


def fit(
    model: nn.Module,
    train: Any,
    valid: Any = None,
    *,
    epochs: int,
    lr: float,
    seed: int | None = None,
    verbose: bool = True,
    task: Task = CLASSIFY,
    **settings: Any,
) -> History:
    """Train `model` in place with SGD or another optimizer, a cosine schedule and cross-entropy (or the loss of another `task`).

    `train` and `valid` are iterables of (inputs [N, …], targets [N, …]) that can be iterated again in each epoch, for example
    DataLoaders; tensors are moved to the device of `model`.  After training, the model is in eval mode and has the weights of the
    epoch with the best accuracy on `valid`, or of the last epoch if there is no `valid` (or with `select="last"`).

    `settings` are the settings of conf/fit/ (`training.settings.Fit`): optimizer, momentum, weight_decay, threshold_weight_decay,
    schedule, warmup_epochs, label_smoothing, clip_grad_norm, ema, precision, compile, …  With `seed`, the generators of Python,
    NumPy and torch are seeded first.  Prints one line for each epoch unless `verbose` is false.

    Returns a `History`; `history["loss"]` is a list with one number for each epoch.

    ValueError for settings out of range or data that can be read only once; TrainingError if the loss is not finite.

    >>> import torch
    >>> from sklearn.datasets import load_digits
    >>> from torch import nn
    >>> from snnconv.training.fitting import fit
    >>> digits = load_digits()
    >>> images, labels = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    >>> batches = list(zip(images.split(64), labels.split(64)))
    >>> model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    >>> history = fit(model, batches, epochs=2, lr=0.1, seed=0, verbose=False)
    >>> len(history["loss"]), history["train_accuracy"][-1] > 0.8
    (2, True)
    """
    if seed is not None:
        seed_everything(seed)
    for name, data in (("train", train), ("valid", valid)):
        if isinstance(data, Iterator):
            raise ValueError(
                f"{name}: an iterator can be read only once, but every epoch reads all batches; use a list or a DataLoader"
            )
    if valid is None and settings.setdefault("select", "last") != "last":
        raise ValueError(f"fit.select={settings['select']}: needs data for selecting the epoch (valid=)")
    require_known(settings, (f.name for f in fields(Fit)), "fit")
    device, history = device_of(model), History()
    how = Fit(epochs=epochs, lr=lr, **settings)
    with _printed() if verbose else nullcontext():
        batches = Loader(train, device, labelled=True), Loader([] if valid is None else valid, device, labelled=True)
        if not batches[0].count:
            raise ValueError("train: contains no batches")
        with torch.random.fork_rng(devices=[]):  # iterating a loader consumes random numbers
            task.try_out(model, batches[0].first(2))
        loop.fit(model, *batches, how, history, task=task, progress=verbose)
    return history


@contextmanager
def _printed() -> Iterator[None]:
    """Context in which messages of the loop are printed, unless the program already shows messages of this level."""
    logger = loop.log
    if logger.isEnabledFor(logging.INFO):
        yield
        return
    handler, before = console.Handler(), (logger.level, logger.propagate)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
