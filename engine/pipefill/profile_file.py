# SPDX-License-Identifier: Apache-2.0
"""The fill profile's file (JSON, version 1), as controller/plan reads it. Unknown fields are refused. Pure.

{version, name, kind, device, configs: [{batch_size, technique: {checkpoint, offload}, resident_bytes, swap_in_ns,
swap_out_ns, stays_bytes?, ops: [{name, time_ns, peak_bytes, live_bytes?}]}]}
"""

import dataclasses
import json

VERSION = 1
KINDS = ("inference", "training")
OFFLOADS = ("none", "params", "activations", "optimizer")
_MOST = 2**63 - 1


@dataclasses.dataclass
class Op:
    """What one op of a pass takes at most, synchronized, and the most memory beyond resident_bytes while it runs."""

    name: str
    time_ns: int
    peak_bytes: int
    live_bytes: int = 0


@dataclasses.dataclass
class Technique:
    """How memory is saved."""

    checkpoint: bool = False
    offload: str = "none"

    def __str__(self):
        words = ["checkpoint"] * self.checkpoint + [f"offload-{self.offload}"] * (self.offload != "none")
        return "+".join(words) or "plain"


@dataclasses.dataclass
class Config:
    """One way to run a pass."""

    batch_size: int
    technique: Technique
    resident_bytes: int
    swap_in_ns: int
    swap_out_ns: int
    ops: list
    stays_bytes: int = 0


@dataclasses.dataclass
class Profile:
    """A fill job's configurations."""

    name: str
    kind: str
    device: str
    configs: list
    version: int = VERSION

    def save(self, path):
        """Writes the file."""
        with open(path, "w", encoding="utf-8") as file:
            json.dump(dataclasses.asdict(self), file, indent=1)
            file.write("\n")


def technique(text):
    """Reads "plain", "checkpoint", "offload-params" and so on, or two of them with a +. ValueError on anything else."""
    found = Technique()
    words = {"plain": {}, "checkpoint": {"checkpoint": True}, **{f"offload-{o}": {"offload": o} for o in OFFLOADS[1:]}}
    for word in text.split("+"):
        if word not in words:
            raise ValueError(f"technique {text!r}: {word!r} is none: write some of {', '.join(words)}, joined by +")
        for key, value in words[word].items():
            setattr(found, key, value)
    return found


def load(path):
    """Reads a file. ValueError names file, place, value and rule."""
    with open(path, encoding="utf-8") as file:
        try:
            value = json.load(file, parse_constant=lambda word: _refuse(path, f"{word} is no number of JSON"))
        except json.JSONDecodeError as err:
            raise ValueError(f"{path}: line {err.lineno}: {err.msg}: a fill profile is JSON") from None
    return Reader(path).profile(value)


def _refuse(path, text):
    raise ValueError(f"{path}: {text}")


class Reader:
    """Checks each value of the file where it stands."""

    def __init__(self, path):
        self.path = path

    def fields(self, value, where, needed, optional=()):
        """value as a dict with just those keys."""
        if not isinstance(value, dict):
            _refuse(self.path, f"{where} is {value!r}: it must be an object")
        for key in value:
            if key not in needed and key not in optional:
                _refuse(self.path, f"{where}: unknown field {key!r}; valid are {', '.join((*needed, *optional))}")
        for key in needed:
            if key not in value:
                _refuse(self.path, f"{where}: {key!r} is missing")
        return value

    def whole(self, value, where, least=0):
        """A whole number."""
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _MOST:
            _refuse(self.path, f"{where} is {value!r}: it must be a whole number from {least} to {_MOST}")
        return value

    def word(self, value, where, allowed=None):
        """A string, one of allowed."""
        if not isinstance(value, str) or allowed is not None and value not in allowed:
            _refuse(self.path, f"{where} is {value!r}: it must be " + ("one of " + ", ".join(allowed) if allowed else "text"))
        return value

    def list(self, value, where):
        """A list with something in it."""
        if not isinstance(value, list) or not value:
            found = "empty" if isinstance(value, list) else value
            _refuse(self.path, f"{where} is {found!r}: it must be a list of one or more")
        return value

    def profile(self, value):
        """The whole file."""
        if isinstance(value, dict) and value.get("version") != VERSION:
            _refuse(self.path, f"version is {value.get('version')!r}, and this pipefill reads {VERSION}")
        value = self.fields(value, "the profile", ("version", "name", "kind", "device", "configs"))
        configs = [self.config(part, f"configs[{i}]") for i, part in enumerate(self.list(value["configs"], "configs"))]
        return Profile(self.word(value["name"], "name"), self.word(value["kind"], "kind", KINDS),
                       self.word(value["device"], "device"), configs)

    def config(self, value, where):
        """One configuration."""
        numbers = ("resident_bytes", "swap_in_ns", "swap_out_ns")
        self.fields(value, where, ("batch_size", "technique", *numbers, "ops"), ("stays_bytes",))
        how = self.fields(value["technique"], where + ".technique", ("checkpoint", "offload"))
        if not isinstance(how["checkpoint"], bool):
            _refuse(self.path, f"{where}.technique.checkpoint is {how['checkpoint']!r}: it must be true or false")
        self.word(how["offload"], where + ".technique.offload", OFFLOADS)
        ops = [self.op(part, f"{where}.ops[{i}]") for i, part in enumerate(self.list(value["ops"], where + ".ops"))]
        return Config(self.whole(value["batch_size"], where + ".batch_size", 1), Technique(**how),
                      *(self.whole(value[key], f"{where}.{key}") for key in numbers), ops,
                      self.whole(value.get("stays_bytes", 0), where + ".stays_bytes"))

    def op(self, value, where):
        """One op."""
        self.fields(value, where, ("name", "time_ns", "peak_bytes"), ("live_bytes",))
        return Op(self.word(value["name"], where + ".name"), self.whole(value["time_ns"], where + ".time_ns"),
                  self.whole(value["peak_bytes"], where + ".peak_bytes"),
                  self.whole(value.get("live_bytes", 0), where + ".live_bytes"))
