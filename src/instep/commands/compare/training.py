"""Training the network on the digits with one optimizer, and measuring as it goes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from instep.commands.choice import hyperparameters
from instep.commands.compare import network
from instep.commands.compare.backends import Backend
from instep.commands.compare.digits import Digits

BATCH = 100
#: Images for which activations are held at once when loss and accuracy are measured.
CHUNK = 5_000


@dataclass(frozen=True)
class Training:
    """What a training run showed.

    `losses` is the batch loss before each step; the others are after each epoch, the first before
    any. `steps_per_epoch` joins the two.
    """

    optimizer: str
    hyperparameters: dict[str, Any]
    steps_per_epoch: int
    losses: tuple[float, ...]
    train_accuracy: tuple[float, ...]
    train_loss: tuple[float, ...]
    held_out_accuracy: tuple[float, ...]
    held_out_loss: tuple[float, ...]


@dataclass(frozen=True)
class Task:
    """What every optimizer is given.

    Initial parameters are NumPy arrays; images with one-hot labels, and the indices of each
    epoch's batches, of shape (steps, batch), are arrays of the backend.
    """

    backend: Backend
    initial: dict[str, dict[str, Any]]
    train: tuple[Any, Any]
    held_out: tuple[Any, Any]
    batches: tuple[Any, ...]


def prepare(digits: Digits, epochs: int, seed: int, backend: Backend) -> Task:
    """Draw initial parameters and batches from `seed` with NumPy, whatever the backend.

    Every epoch is a new permutation of the training images, cut into batches of `BATCH`; what does
    not fill a batch waits for another epoch.
    """
    initial = network.initial_parameters(np.random.default_rng((seed, 1)))
    rng = np.random.default_rng((seed, 2))
    size = min(BATCH, len(digits.train_labels))
    count = len(digits.train_labels) // size * size
    batches = [
        backend.array(rng.permutation(len(digits.train_labels))[:count].reshape(-1, size))
        for _ in range(epochs)
    ]

    def one_hot(labels: npt.NDArray[np.int64]) -> Any:
        return backend.array(np.eye(network.SIZES[-1], dtype=np.float32)[labels])

    return Task(
        backend=backend,
        initial=initial,
        train=(backend.array(digits.train_images), one_hot(digits.train_labels)),
        held_out=(backend.array(digits.held_out_images), one_hot(digits.held_out_labels)),
        batches=tuple(batches),
    )


def train(optimizer: Any, task: Task, advance: Callable[[], None]) -> Training:
    """Train the network with a new optimizer; call `advance` after each epoch.

    An optimizer that diverges is a result, too: its losses are infinite or NaN from there on.
    """
    own = hyperparameters(optimizer)
    answer = getattr(optimizer, "eval_params", lambda trained: trained)
    params = {
        layer: {name: task.backend.array(values) for name, values in arrays.items()}
        for layer, arrays in task.initial.items()
    }
    losses: list[float] = []
    judged = [judge(task, params)]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for epoch in task.batches:
            params, epoch_losses = one_epoch(optimizer, task, params, epoch)
            losses += epoch_losses
            judged.append(judge(task, answer(params)))
            advance()
    train_accuracy, train_loss, held_out_accuracy, held_out_loss = zip(*judged, strict=True)
    return Training(
        optimizer=type(optimizer).__name__,
        hyperparameters=own,
        steps_per_epoch=len(losses) // len(task.batches),
        losses=tuple(losses),
        train_accuracy=train_accuracy,
        train_loss=train_loss,
        held_out_accuracy=held_out_accuracy,
        held_out_loss=held_out_loss,
    )


def one_epoch(optimizer: Any, task: Task, params: Any, batches: Any) -> tuple[Any, list[float]]:
    """Take a step for each row of `batches`, indices of images; return parameters and losses."""
    xp = task.backend.xp
    images, labels = task.train
    losses = []
    for k in range(batches.shape[0]):
        chosen = batches[k, :]
        batch = xp.take(images, chosen, axis=0), xp.take(labels, chosen, axis=0)
        loss, grads = network.loss_and_gradients(xp, params, *batch)
        params = optimizer.update(params, grads, value=loss)
        losses.append(loss)
    # Together, so that a GPU is waited for once an epoch and not in every step.
    return params, task.backend.numpy(xp.stack(losses)).tolist()


def judge(task: Task, params: Any) -> tuple[float, float, float, float]:
    """Return accuracy and mean loss on training images, and both on held-out ones."""
    xp = task.backend.xp
    return *judge_images(xp, params, *task.train), *judge_images(xp, params, *task.held_out)


def judge_images(
    xp: Any, params: dict[str, dict[str, Any]], images: Any, labels: Any
) -> tuple[float, float]:
    """Return the share of images whose most probable class is that of the label; the mean loss."""
    count = int(labels.shape[0])
    right, total = 0, 0.0
    for k in range(0, count, CHUNK):
        loss, hits = network.judge(xp, params, images[k : k + CHUNK, :], labels[k : k + CHUNK, :])
        total += float(loss)
        right += int(hits)
    return right / count, total / count
