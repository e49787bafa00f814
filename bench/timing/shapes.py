"""Parameter shapes of models that people train, generated from their configurations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

Shape = tuple[int, ...]


def resnet50() -> list[Shape]:
    """ResNet-50 (He et al. 2015, arXiv 1512.03385; torchvision's): bottleneck stages of 3, 4, 6, 3 blocks."""
    shapes: list[Shape] = [(64, 3, 7, 7), (64,), (64,)]
    width_in = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            for out, into, size in ((width, width_in, 1), (width, width, 3), (4 * width, width, 1)):
                shapes += [(out, into, size, size), (out,), (out,)]
            if block == 0:
                shapes += [(4 * width, width_in, 1, 1), (4 * width,), (4 * width,)]
            width_in = 4 * width
    return [*shapes, (1000, 2048), (1000,)]


def gpt2_124m() -> list[Shape]:
    """GPT-2 small (Radford et al. 2019): 12 layers of width 768, the output layer tied to the embedding."""
    width, layers = 768, 12
    shapes: list[Shape] = [(50257, width), (1024, width)]
    for _ in range(layers):
        shapes += [(width,), (width,)]
        shapes += [(width, 3 * width), (3 * width,), (width, width), (width,)]
        shapes += [(width,), (width,)]
        shapes += [(width, 4 * width), (4 * width,), (4 * width, width), (width,)]
    return [*shapes, (width,), (width,)]


def llama_1b() -> list[Shape]:
    """Llama 3.2 1B (Grattafiori et al. 2024, arXiv 2407.21783, and its model card), embeddings tied.

    16 layers of width 2048, 32 heads of 64 with 8 key-value heads, feed-forward width 8192.
    """
    width, hidden, key_value = 2048, 8192, 8 * 64
    shapes: list[Shape] = [(128256, width)]
    for _ in range(16):
        shapes += [(width, width), (key_value, width), (key_value, width), (width, width)]
        shapes += [(hidden, width), (hidden, width), (width, hidden)]
        shapes += [(width,), (width,)]
    return [*shapes, (width,)]


def vit_b16() -> list[Shape]:
    """ViT-B/16 at 224 pixels (Dosovitskiy et al. 2020, arXiv 2010.11929; torchvision's)."""
    width, hidden = 768, 3072
    shapes: list[Shape] = [(1, 1, width), (width, 3, 16, 16), (width,), (1, 197, width)]
    for _ in range(12):
        shapes += [(width,), (width,)]
        shapes += [(3 * width, width), (3 * width,), (width, width), (width,)]
        shapes += [(width,), (width,)]
        shapes += [(hidden, width), (hidden,), (width, hidden), (width,)]
    return [*shapes, (width,), (width,), (1000, width), (1000,)]


MODELS: Mapping[str, Callable[[], list[Shape]]] = {
    "resnet50": resnet50,
    "gpt2-124m": gpt2_124m,
    "llama-1b": llama_1b,
    "vit-b16": vit_b16,
}
"""By workload name."""

PUBLISHED: Mapping[str, int] = {
    "resnet50": 25_557_032,
    "gpt2-124m": 124_439_808,
    "llama-1b": 1_235_814_400,
    "vit-b16": 86_567_656,
}
"""Parameters as published: torchvision's tables, and the released checkpoints of GPT-2 and Llama 3.2."""


def parameters(shapes: list[Shape]) -> int:
    """Elements of all shapes together."""
    return sum(map(prod, shapes))
