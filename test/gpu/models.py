# SPDX-License-Identifier: Apache-2.0
"""Fill jobs of the kinds that PipeFill's paper uses, built from their published shapes; weights are random.

BERT: Devlin et al. 2019, table of sizes. EfficientNet-B0: Tan and Le 2019, table 1. Swin-L: Liu et al. 2021, table 7
(shifted windows are rolled, and their mask is left out: it costs nothing to speak of). "tiny" is the same code, small.
"""

import torch
from torch import nn
from torch.nn import functional

SHAPES = {
    "bert-base": {"kind": "bert", "layers": 12, "width": 768, "heads": 12, "sequence": 128, "vocabulary": 30522},
    "bert-large": {"kind": "bert", "layers": 24, "width": 1024, "heads": 16, "sequence": 128, "vocabulary": 30522},
    "bert-tiny": {"kind": "bert", "layers": 2, "width": 64, "heads": 2, "sequence": 16, "vocabulary": 100},
    # (expansion, kernel, stride, channels, repeats)
    "efficientnet": {"kind": "cnn", "stem": 32, "head": 1280, "image": 224, "blocks": [
        (1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3), (6, 5, 2, 192, 4),
        (6, 3, 1, 320, 1)]},
    "efficientnet-tiny": {"kind": "cnn", "stem": 8, "head": 32, "image": 32, "blocks": [(1, 3, 1, 8, 1), (4, 3, 2, 16, 2)]},
    "swin": {"kind": "swin", "width": 192, "depths": (2, 2, 18, 2), "heads": (6, 12, 24, 48), "window": 7, "image": 224},
    "swin-tiny": {"kind": "swin", "width": 16, "depths": (1, 2), "heads": (1, 2), "window": 4, "image": 32},
}


class Bert(nn.Module):
    """Tokens [batch, sequence] in, one vector [batch, width] a sequence out."""

    def __init__(self, layers, width, heads, sequence, vocabulary):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.randn(sequence, width) * 0.02)
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Attention(width, heads) for _ in range(layers))
        self.pool = nn.Linear(width, width)

    def forward(self, x):
        """See the class."""
        x = self.norm(self.tokens(x) + self.positions)
        for block in self.blocks:
            x = block(x)
        return torch.tanh(self.pool(x[:, 0]))


class Attention(nn.Module):
    """A transformer's block, [batch, sequence, width] in and out: heads and a feed-forward net of four times the width."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_forward = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        """See the class."""
        batch, sequence, width = x.shape
        q, k, v = (part.view(batch, sequence, self.heads, -1).transpose(1, 2)
                   for part in self.qkv(self.norm_attention(x)).split(width, 2))
        mixed = ((q @ k.transpose(-2, -1)) * (width // self.heads) ** -0.5).softmax(-1) @ v
        x = x + self.project(mixed.transpose(1, 2).reshape(batch, sequence, width))
        return x + self.down(functional.gelu(self.up(self.norm_forward(x))))


class MBConv(nn.Module):
    """EfficientNet's block: expansion, depthwise convolution, squeeze and excitation, projection."""

    def __init__(self, channels, out, expansion, kernel, stride):
        super().__init__()
        inner = channels * expansion
        self.expand = nn.Identity() if expansion == 1 else _convolution(channels, inner, 1)
        self.depth = _convolution(inner, inner, kernel, stride, inner)
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(inner, max(1, channels // 4), 1), nn.SiLU(),
                                     nn.Conv2d(max(1, channels // 4), inner, 1), nn.Sigmoid())
        self.project = nn.Sequential(nn.Conv2d(inner, out, 1, bias=False), nn.BatchNorm2d(out))
        self.residual = stride == 1 and channels == out

    def forward(self, x):
        """Images [batch, channels, height, width] in, [batch, out, ...] out."""
        y = self.depth(self.expand(x))
        y = self.project(y * self.squeeze(y))
        return x + y if self.residual else y


def _convolution(channels, out, kernel, stride=1, groups=1):
    return nn.Sequential(nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False),
                         nn.BatchNorm2d(out), nn.SiLU())


def _cnn(stem, head, blocks):
    parts, channels = [_convolution(3, stem, 3, 2)], stem
    for expansion, kernel, stride, out, repeats in blocks:
        for i in range(repeats):
            parts.append(MBConv(channels, out, expansion, kernel, stride if i == 0 else 1))
            channels = out
    return nn.Sequential(*parts, _convolution(channels, head, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(head, 1000))


class Windows(nn.Module):
    """Swin's block: attention within windows, which every other block shifts by half of one."""

    def __init__(self, width, heads, window, shift):
        super().__init__()
        self.window, self.shift = window, shift
        self.inner = Attention(width, heads)

    def forward(self, x):
        """[batch, height, width, channels] in and out."""
        batch, height, width, channels = x.shape
        size = min(self.window, height)
        shift = self.shift if size < height else 0
        x = torch.roll(x, (-shift, -shift), (1, 2))
        x = x.view(batch, height // size, size, width // size, size, channels).transpose(2, 3)
        x = self.inner(x.reshape(-1, size * size, channels))
        x = x.view(batch, height // size, width // size, size, size, channels).transpose(2, 3)
        return torch.roll(x.reshape(batch, height, width, channels), (shift, shift), (1, 2))


class Merge(nn.Module):
    """Four neighbours become one of twice the channels."""

    def __init__(self, width):
        super().__init__()
        self.norm, self.reduce = nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x):
        """[batch, height, width, channels] in, [batch, height / 2, width / 2, 2 * channels] out."""
        parts = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduce(self.norm(torch.cat(parts, -1)))


class Swin(nn.Module):
    """Images [batch, 3, size, size] in, one vector of classes out."""

    def __init__(self, width, depths, heads, window):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        parts = []
        for stage, (depth, count) in enumerate(zip(depths, heads)):
            if stage:
                parts.append(Merge(width))
                width *= 2
            parts += [Windows(width, count, window, window // 2 * (i % 2)) for i in range(depth)]
        self.parts = nn.ModuleList(parts)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 1000)

    def forward(self, x):
        """See the class."""
        x = self.patches(x).permute(0, 2, 3, 1)
        for part in self.parts:
            x = part(x)
        return self.head(self.norm(x).mean((1, 2)))


def build(name, seed=0):
    """The model of a name, its weights from seed. ValueError on another name."""
    shape = dict(_shape(name))
    kind = shape.pop("kind")
    torch.manual_seed(seed)
    if kind == "bert":
        return Bert(**shape)
    shape.pop("image")
    return _cnn(**shape) if kind == "cnn" else Swin(**shape)


def batch_of(name, size, number=0):
    """Batch number of some size: the same each time it is asked for."""
    shape = _shape(name)
    generator = torch.Generator().manual_seed(number)
    if shape["kind"] == "bert":
        return torch.randint(shape["vocabulary"], (size, shape["sequence"]), generator=generator)
    return torch.rand(size, 3, shape["image"], shape["image"], generator=generator)


def _shape(name):
    if name not in SHAPES:
        raise ValueError(f"model {name!r}: write one of {', '.join(SHAPES)}")
    return SHAPES[name]
