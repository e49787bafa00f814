"""A small character-level transformer and its text, Python's own manual, which comes with the interpreter."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from .data import Batch, words

WIDTH: Final = 104
HEADS: Final = 4
BLOCKS: Final = 2
CONTEXT: Final = 64
"""Tokens of a sample; one sample a step."""


@functools.cache
def text() -> str:
    """All topics of ``pydoc_data.topics`` in the order of their names."""
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


def text_digest() -> str:
    """SHA-256 of the text: it differs between versions of Python, and so does what is trained on it."""
    return hashlib.sha256(text().encode()).hexdigest()[:16]


@functools.cache
def alphabet() -> str:
    """The characters of the text, in order."""
    return "".join(sorted(set(text())))


@functools.cache
def _encoded() -> Tensor:
    """[characters] int64."""
    place = {character: index for index, character in enumerate(alphabet())}
    return torch.tensor([place[character] for character in text()], dtype=torch.int64)


class TextStream:
    """One passage a step, at a place of its own for every seed, initialisation and step."""

    def __init__(self, *, seed: int, inits: Sequence[int], device: torch.device) -> None:
        self._seed, self._inits = seed, tuple(inits)
        self._text = _encoded().to(device)

    def batch(self, step: int) -> Batch:
        """Inputs and next characters, [families, 1, CONTEXT] int64 each."""
        places = len(self._text) - CONTEXT
        drawn = [words(self._seed, "text-place", init, 1, block=step)[0] % np.uint64(places) for init in self._inits]
        first = torch.tensor([int(place) for place in drawn], device=self._text.device).unsqueeze(1)
        passage = self._text[first + torch.arange(CONTEXT + 1, device=self._text.device)]
        return Batch(inputs=passage[:, None, :-1].contiguous(), targets=passage[:, None, 1:].contiguous())


class Block(nn.Module):
    """Attention to what came before, then two layers with GELU; each on normalised input, each added to it."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(WIDTH)
        self.attention_in = nn.Linear(WIDTH, 3 * WIDTH)
        self.attention_out = nn.Linear(WIDTH, WIDTH)
        self.mlp_norm = nn.LayerNorm(WIDTH)
        self.mlp_in = nn.Linear(WIDTH, 4 * WIDTH)
        self.mlp_out = nn.Linear(4 * WIDTH, WIDTH)
        later = torch.ones(CONTEXT, CONTEXT, dtype=torch.bool).triu(1)
        self.register_buffer("later", later, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[samples, tokens, WIDTH]."""
        samples, tokens, _ = x.shape
        parts = self.attention_in(self.attention_norm(x)).view(samples, tokens, 3, HEADS, WIDTH // HEADS)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        scores = query @ key.transpose(-1, -2) * (WIDTH // HEADS) ** -0.5
        weights = scores.masked_fill(self.get_buffer("later"), float("-inf")).softmax(-1)
        seen = (weights @ value).transpose(1, 2).reshape(samples, tokens, WIDTH)
        x = x + self.attention_out(seen)
        hidden: Tensor = x + self.mlp_out(nn.functional.gelu(self.mlp_in(self.mlp_norm(x))))
        return hidden


class Transformer(nn.Module):
    """Characters to the logits of the next one: embeddings of character and place, blocks, a norm, a Linear."""

    def __init__(self) -> None:
        super().__init__()
        characters = len(alphabet())
        self.character = nn.Embedding(characters, WIDTH)
        self.place = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.norm = nn.LayerNorm(WIDTH)
        self.logits = nn.Linear(WIDTH, characters)

    def forward(self, tokens: Tensor) -> Tensor:
        """[samples, tokens, characters] of int64 [samples, tokens]."""
        x = self.character(tokens) + self.place.weight
        logits: Tensor = self.logits(self.norm(self.blocks(x)))
        return logits
