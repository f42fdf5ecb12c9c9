"""The edge with an instruction set apart: VYR built for aarch64, run by QEMU's user mode on this machine's kernel."""

import os
import shutil
from pathlib import Path

from .common import CACHE, ENVS, Failure, made_once, packages, settings, unpacked
from .places import Namespace

LISTING = ENVS / "edge/packages-aarch64"


class Apart(Namespace):
    """Translated instruction by instruction: it proves that the same digest gives the same output, and says nothing about times."""

    name = "edge-aarch64"
    kind, emulated = "qemu-user", True
    # It ends there without a word, under QEMU's user mode.
    starts_nodes = False
    vyr = None

    def __init__(self, network, work):
        # Its link and its limits are not the point, and this kernel has no netem.
        self.settings_of = settings("edge") | {"name": self.name, "address": "10.83.0.5", "link": {"shaped": False}}
        self.settings_of.pop("schedule")
        super().__init__(network, work)

    def configuration(self):
        return self.settings_of

    def up(self, programs):
        if not self.vyr:
            raise Failure("edge-aarch64 needs a vyr for it: make one with envs/edge/build-aarch64, and name it with --vyr-aarch64")
        super().up([program for program in programs if program.name != "vyr"])
        system = made_once(CACHE / f"aarch64-{'+'.join(version for _, version in packages(LISTING)).replace(':', '.')}", lambda folder: unpacked(packages(LISTING), folder))
        there = Path(self.programs)
        shutil.copy(self.vyr, there / "vyr-aarch64")
        shutil.copy(system / "usr/bin/qemu-aarch64-static", there)
        os.symlink(system / "usr/aarch64-linux-gnu", there / "system")
        (there / "vyr").write_text('#!/bin/sh\nhere=${0%/*}\nexec "$here/qemu-aarch64-static" -L "$here/system" "$here/vyr-aarch64" "$@"\n', encoding="ascii")
        (there / "vyr").chmod(0o755)

    def kernel_facts(self):
        return {"kernel_of": "this machine, aarch64 by QEMU's user mode"}
