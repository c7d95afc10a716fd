# SPDX-License-Identifier: Apache-2.0
"""A text corpus made here: sentences of a small grammar, the same ones for the same seed."""

import random

import torch

_ARTICLES = ("the", "a", "every", "no", "this")
_ADJECTIVES = ("idle", "busy", "patient", "short", "late", "early", "small", "large", "quiet", "pending")
_NOUNS = ("bubble", "stage", "queue", "node", "device", "trainer", "pipeline", "gradient", "ledger", "gate")
_VERBS = ("fills", "drains", "waits for", "sends to", "follows", "opens", "shuts", "holds", "measures", "learns from")
_ENDS = (".", ".", ".", "!", "?")

VOCABULARY = 128  # bytes of ASCII


def text(length, seed=0):
    """length characters of grammar text."""
    chooser = random.Random(seed)
    parts = []
    size = 0
    while size < length:
        words = [chooser.choice(_ARTICLES), chooser.choice(_ADJECTIVES), chooser.choice(_NOUNS), chooser.choice(_VERBS),
                 chooser.choice(_ARTICLES), chooser.choice(_NOUNS)]
        sentence = " ".join(words) + chooser.choice(_ENDS) + " "
        parts.append(sentence)
        size += len(sentence)
    return "".join(parts)[:length]


class Batches:
    """Endless micro-batches of (inputs, targets), int64 of shape [batch, sequence]; every rank draws the same."""

    def __init__(self, batch, sequence, seed=0, length=200_000):
        self._data = torch.tensor(list(text(length, seed).encode("ascii")), dtype=torch.int64)
        self._batch, self._sequence = batch, sequence
        self._generator = torch.Generator().manual_seed(seed)

    def next(self):
        """One micro-batch; targets are the inputs one character on."""
        starts = torch.randint(len(self._data) - self._sequence - 1, (self._batch,), generator=self._generator)
        rows = torch.stack([self._data[s:s + self._sequence + 1] for s in starts.tolist()])
        return rows[:, :-1], rows[:, 1:]
