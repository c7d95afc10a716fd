# SPDX-License-Identifier: Apache-2.0
"""The state of a fill job in a file, so that one that had to go continues where it was, to the bit.

The file is the tensors' bytes one after the other, then the rest pickled, then a fixed end: length and checksum. It is
written in pieces, each of them an op, and takes the place of the one before only when it is whole.
"""

import os
import pickle
import random
import struct
import sys
import zlib

import torch

VERSION = 1
_MAGIC = b"pipefill state\n"
_END = struct.Struct("<15sIQII")  # magic, version, bytes of tensors, bytes of the rest, checksum of both
_PIECE = 1 << 20  # 1 ms of checksum and copy


class _Tensor:
    """A tensor's place in the file."""

    def __init__(self, dtype, shape, device, offset, size):
        self.dtype, self.shape, self.device, self.offset, self.size = dtype, shape, device, offset, size


def random_state(generators=()):
    """What PyTorch, NumPy (if it is imported), Python and the generators would draw next."""
    state = {"torch": torch.get_rng_state(), "python": random.getstate(), "generators": [g.get_state() for g in generators]}
    if "numpy" in sys.modules:
        state["numpy"] = sys.modules["numpy"].random.get_state()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state, generators=()):
    """Has all of them draw what they would have drawn after random_state()."""
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    for generator, kept in zip(generators, state["generators"]):
        generator.set_state(kept)
    if "numpy" in state and "numpy" in sys.modules:
        sys.modules["numpy"].random.set_state(state["numpy"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def _take_out(value, tensors):
    """value with its tensors replaced by their places; tensors collects them."""
    if isinstance(value, torch.Tensor):
        size = value.numel() * value.element_size()
        offset = tensors[-1][0].offset + tensors[-1][0].size if tensors else 0
        place = _Tensor(value.dtype, tuple(value.shape), str(value.device), offset, size)
        tensors.append((place, value.detach()))
        return place
    if isinstance(value, dict):
        taken = value.copy()
        taken.update((key, _take_out(part, tensors)) for key, part in value.items())
        return taken
    if type(value) in (list, tuple):
        return type(value)(_take_out(part, tensors) for part in value)
    return value


def _put_back(value, data):
    if isinstance(value, _Tensor):
        raw = torch.frombuffer(data, dtype=torch.uint8, count=value.size, offset=value.offset) if value.size else torch.empty(0)
        tensor = torch.empty(value.shape, dtype=value.dtype)
        if value.size:
            tensor.reshape(-1).view(torch.uint8).copy_(raw)
        return tensor.to(value.device)
    if isinstance(value, dict):
        value.update((key, _put_back(part, data)) for key, part in value.items())
        return value
    if type(value) in (list, tuple):
        return type(value)(_put_back(part, data) for part in value)
    return value


def _bytes_of(tensor):
    flat = tensor.cpu().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy()) if flat.numel() else memoryview(b"")


def save(path, state, boundary=None, pause=None):
    """Writes state to path. boundary(name) is called before each piece, pause() before waiting for the disk."""
    boundary = boundary or (lambda name: None)
    tensors = []
    boundary("state.rest")
    rest = pickle.dumps(_take_out(state, tensors), protocol=4)
    fresh = path + ".new"
    checksum = length = 0
    since = _PIECE  # bytes since the last boundary
    with open(fresh, "wb") as file:
        for _, tensor in tensors:
            data = _bytes_of(tensor)
            for begin in range(0, len(data), _PIECE):
                piece = data[begin:begin + _PIECE]
                if since + len(piece) > _PIECE:
                    boundary("state.piece")
                    since = 0
                since += len(piece)
                checksum = zlib.crc32(piece, checksum)
                file.write(piece)
            length += len(data)
        boundary("state.rest")
        checksum = zlib.crc32(rest, checksum)
        file.write(rest)
        file.write(_END.pack(_MAGIC, VERSION, length, len(rest), checksum))
        file.flush()
        if pause is not None:
            pause()
        os.fsync(file.fileno())
    os.replace(fresh, path)


def load(path):
    """Returns what save() wrote; None if there is no file. ValueError if it is no whole state of this version."""
    try:
        with open(path, "rb") as file:
            data = bytearray(file.read())
    except FileNotFoundError:
        return None
    wrong = f"{path} is no state of a fill job: name another file, or remove it to start anew"
    if len(data) < _END.size:
        raise ValueError(f"{wrong} (it has {len(data)} bytes)")
    magic, version, length, rest, checksum = _END.unpack_from(data, len(data) - _END.size)
    if magic != _MAGIC:
        raise ValueError(wrong)
    if version != VERSION:
        raise ValueError(f"{path} is a state of version {version}, and this pipefill reads {VERSION}: use the pipefill that "
                         "wrote it, or remove it to start anew")
    if length + rest + _END.size != len(data) or zlib.crc32(memoryview(data)[:length + rest]) != checksum:
        raise ValueError(f"{path} is damaged: remove it to start anew")
    # A user's own file, as torch.load would read it.
    return _put_back(pickle.loads(memoryview(data)[length:length + rest]), data)
