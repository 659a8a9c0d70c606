"""Two problems that train in seconds, their parameters on one line of float32: digits and text.

The line has rows of `BLOCK` elements; each tensor begins a row, and what is left of its last row
is zero, as are its gradients.
"""

import math
import pydoc_data.topics

import numpy as np
import torch
from rounded_states import BLOCK
from torch.nn import functional

from instep.commands.compare import backends, digits, network, training


class Line:
    """Rows of float32 that hold tensors of given shapes, and the tensors as views."""

    def __init__(self, shapes: list[tuple[int, ...]]):
        self.sizes = [math.prod(shape) for shape in shapes]
        ends = np.cumsum([-(-size // BLOCK) for size in self.sizes])
        self.shapes, self.starts, self.rows = shapes, [0, *ends[:-1]], int(ends[-1])

    def views(self, line: np.ndarray) -> list[np.ndarray]:
        """Return the tensors on a line, which they share memory with."""
        return [
            line[start:].reshape(-1)[:size].reshape(shape)
            for start, size, shape in zip(self.starts, self.sizes, self.shapes, strict=True)
        ]

    def filled(self, tensors: list[np.ndarray]) -> np.ndarray:
        """Return a new line that holds the tensors."""
        line = np.zeros((self.rows, BLOCK), np.float32)
        for view, tensor in zip(self.views(line), tensors, strict=True):
            view[...] = tensor
        return line


class Digits:
    """The network of `instep compare` on its 5,000 digits."""

    title = "Digits: a perceptron of 110,000 weights"

    def __init__(self, seed: int, epochs: int = 10):
        data = digits.small(np.random.default_rng((seed, 0)))
        self.task = training.prepare(data, epochs, seed, backends.load("numpy"))
        layers = self.task.initial
        self.names = [(layer, name) for layer in layers for name in layers[layer]]
        tensors = [layers[layer][name] for layer, name in self.names]
        self.layout = Line([tensor.shape for tensor in tensors])
        self.line = self.layout.filled(tensors)
        self.batches = np.concatenate(self.task.batches)

    def lr(self, t: int) -> float:
        """Return the learning rate of a step: Adam's own."""
        return 1e-3

    def tree(self, line: np.ndarray) -> dict:
        """Return the tensors on a line as the network has them."""
        found: dict = {}
        for (layer, name), view in zip(self.names, self.layout.views(line), strict=True):
            found.setdefault(layer, {})[name] = view
        return found

    def gradients(self, line: np.ndarray, t: int) -> tuple[float, np.ndarray]:
        """Return the loss of the batch of step t, and the gradients."""
        images, labels = (x[self.batches[t - 1]] for x in self.task.train)
        loss, grads = network.loss_and_gradients(np, self.tree(line), images, labels)
        return float(loss), self.layout.filled([grads[layer][name] for layer, name in self.names])

    def held_out(self, line: np.ndarray) -> float:
        """Return the loss on digits that were not trained on."""
        return float(network.loss_and_gradients(np, self.tree(line), *self.task.held_out)[0])


class Text:
    """A transformer that predicts the next letter of Python's help on its own language."""

    title = "Text: a transformer of 117,000 weights"
    WIDTH, LAYERS, HEADS, LENGTH, BATCH = 64, 2, 4, 64, 8

    def __init__(self, seed: int, steps: int = 600):
        topics = pydoc_data.topics.topics
        text = "\n".join(topics[name] for name in sorted(topics))
        letters = sorted(set(text))
        codes = torch.tensor([letters.index(letter) for letter in text])
        cut = len(codes) * 9 // 10
        self.train, self.rest = codes[:cut], codes[cut:]
        n, count = self.WIDTH, len(letters)
        block = [(n,), (n,), (3 * n, n), (n, n), (n,), (n,), (4 * n, n), (4 * n,), (n, 4 * n), (n,)]
        shapes = [(count, n), (self.LENGTH, n), *self.LAYERS * block, (n,), (n,), (count, n)]
        self.layout = Line(shapes)
        rng = np.random.default_rng((seed, 1))
        # Vectors before another begin at one: scales, and the last shift of a block, which is the
        # same in all places and so is taken away by the norm after it.
        is_one = [
            len(shape) == len(after) == 1
            for shape, after in zip(shapes, [*shapes[1:], ()], strict=True)
        ]
        self.line = self.layout.filled(
            [
                rng.normal(0, 0.02, shape) if len(shape) == 2 else np.full(shape, float(one))
                for shape, one in zip(shapes, is_one, strict=True)
            ]
        )
        rng, self.steps = np.random.default_rng((seed, 2)), steps
        self.batches = rng.integers(0, cut - self.LENGTH - 1, (steps, self.BATCH))

    def lr(self, t: int) -> float:
        """Return the learning rate of a step: up in 100 steps, and down to a tenth as a cosine."""
        peak, done = 4e-3, max(t - 100, 0) / (self.steps - 100)
        return peak * min(t / 100, 0.55 + 0.45 * math.cos(math.pi * done))

    def loss(self, tensors: list, text: torch.Tensor, starts: np.ndarray) -> torch.Tensor:
        """Return the mean cross entropy of the letters after those that begin at `starts`."""
        windows = text[torch.from_numpy(starts)[:, None] + torch.arange(self.LENGTH + 1)]
        take = iter(tensors)
        letters, places = next(take), next(take)
        x = functional.embedding(windows[:, :-1], letters) + places
        for _ in range(self.LAYERS):
            y = functional.layer_norm(x, (self.WIDTH,), next(take), next(take))
            q, k, v = (
                part.unflatten(-1, (self.HEADS, -1)).transpose(1, 2)
                for part in functional.linear(y, next(take)).chunk(3, dim=-1)
            )
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + functional.linear(y.transpose(1, 2).flatten(2), next(take))
            y = functional.layer_norm(x, (self.WIDTH,), next(take), next(take))
            y = functional.gelu(functional.linear(y, next(take), next(take)))
            x = x + functional.linear(y, next(take), next(take))
        x = functional.layer_norm(x, (self.WIDTH,), next(take), next(take))
        scores = functional.linear(x, next(take))
        return functional.cross_entropy(scores.flatten(0, 1), windows[:, 1:].flatten())

    def gradients(self, line: np.ndarray, t: int) -> tuple[float, np.ndarray]:
        """Return the loss of the batch of step t, and the gradients."""
        grads = np.zeros_like(line)
        tensors = [torch.from_numpy(view).requires_grad_() for view in self.layout.views(line)]
        for tensor, grad in zip(tensors, self.layout.views(grads), strict=True):
            tensor.grad = torch.from_numpy(grad)  # which backward adds to
        loss = self.loss(tensors, self.train, self.batches[t - 1])
        loss.backward()
        return loss.item(), grads

    def held_out(self, line: np.ndarray) -> float:
        """Return the loss on the last tenth of the text, all of it."""
        tensors = [torch.from_numpy(view) for view in self.layout.views(line)]
        starts = np.arange(0, len(self.rest) - self.LENGTH - 1, self.LENGTH)
        with torch.no_grad():
            losses = [self.loss(tensors, self.rest, part) for part in np.array_split(starts, 12)]
        return torch.stack(losses).mean().item()
