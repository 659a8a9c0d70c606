"""Parameter shapes of real networks, as data."""

from collections.abc import Iterator

from instep.commands.bench.cases import Shape

#: Stages of ResNet-50 (He et al. 2015, arXiv:1512.03385, table 1): blocks, and the channels
#: within a block, of which it gives out four times as many.
RESNET50_STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))

#: GPT-2 small (Radford et al. 2019): vocabulary, positions, width and blocks.
GPT2_VOCABULARY, GPT2_POSITIONS, GPT2_WIDTH, GPT2_BLOCKS = 50257, 1024, 768, 12


def resnet50() -> tuple[Shape, ...]:
    """Return the 161 parameter shapes of ResNet-50: 25,557,032 elements."""
    return tuple(_resnet50())


def _resnet50() -> Iterator[Shape]:
    def convolution(outputs: int, inputs: int, size: int) -> Iterator[Shape]:
        yield (outputs, inputs, size, size)
        yield (outputs,)  # the scale and the shift of the batch norm after it
        yield (outputs,)

    yield from convolution(64, 3, 7)
    inputs = 64
    for blocks, width in RESNET50_STAGES:
        for block in range(blocks):
            yield from convolution(width, inputs, 1)
            yield from convolution(width, width, 3)
            yield from convolution(4 * width, width, 1)
            if block == 0:
                yield from convolution(4 * width, inputs, 1)
            inputs = 4 * width
    yield (1000, inputs)
    yield (1000,)


def gpt2_small() -> tuple[Shape, ...]:
    """Return the 148 parameter shapes of GPT-2 small: 124,439,808 elements."""
    n = GPT2_WIDTH
    norm: list[Shape] = [(n,), (n,)]
    attention: list[Shape] = [(n, 3 * n), (3 * n,), (n, n), (n,)]
    perceptron: list[Shape] = [(n, 4 * n), (4 * n,), (4 * n, n), (n,)]
    block = [*norm, *attention, *norm, *perceptron]
    return ((GPT2_VOCABULARY, n), (GPT2_POSITIONS, n), *GPT2_BLOCKS * block, *norm)


NETWORKS = {"ResNet-50": resnet50, "GPT-2 small": gpt2_small}
