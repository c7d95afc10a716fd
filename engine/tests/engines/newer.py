#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Takes torch.distributed.pipelining out of a newer PyTorch, without the 900 MB around it.

    newer.py FOLDER

It is Python only, and 2.9's runs on the compiled parts of 2.6. A wheel is a zip file, whose parts PyPI gives by ranges.
"""

import hashlib
import io
import json
import os
import sys
import urllib.parse
import urllib.request
import zipfile

INDEX = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/") + "/torch/"
WHEEL = "torch-2.9.1-cp313-cp313-manylinux_2_28_x86_64.whl"
FOLDER = "torch/distributed/pipelining/"
DIGEST = "18c0fa6aa694cbff67e99a9d62c16ef7c885d36f8518421b500fbf2dff9f5c94"


class Ranges(io.RawIOBase):
    """A file on a server that answers ranges; OSError if it does not."""

    def __init__(self, url):
        super().__init__()
        self.url, self.at = url, 0
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=60) as answer:
            self.size = int(answer.headers["Content-Length"])

    def seekable(self):
        return True

    def readable(self):
        return True

    def seek(self, offset, whence=io.SEEK_SET):
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence]
        return self.at

    def tell(self):
        return self.at

    def readinto(self, buffer):
        last = min(self.at + len(buffer), self.size) - 1
        if last < self.at:
            return 0
        request = urllib.request.Request(self.url, headers={"Range": f"bytes={self.at}-{last}"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            if answer.status != 206:
                raise OSError(f"{self.url}: the server does not answer ranges")
            data = answer.read()
        buffer[:len(data)] = data
        self.at += len(data)
        return len(data)


def main():
    to = sys.argv[1]
    request = urllib.request.Request(INDEX, headers={"Accept": "application/vnd.pypi.simple.v1+json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        url = next(file["url"] for file in json.load(answer)["files"] if file["filename"] == WHEEL)
    with zipfile.ZipFile(io.BufferedReader(Ranges(urllib.parse.urljoin(INDEX, url)), 1 << 20)) as wheel:
        names = sorted(name for name in wheel.namelist() if name.startswith(FOLDER) and name.endswith(".py"))
        parts = {name: wheel.read(name) for name in names}
    digest = hashlib.sha256(b"".join(parts.values())).hexdigest()
    if digest != DIGEST:
        raise SystemExit(f"newer: {WHEEL} has {FOLDER} with SHA-256 {digest}, not {DIGEST}")
    for name, data in parts.items():
        path = os.path.join(to, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)


if __name__ == "__main__":
    main()
