"""The edge: a guest with its own kernel, by User-Mode Linux or QEMU, that is told what to do over a serial line."""

import base64
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

from . import disk
from .common import Failure, call, settings, tool
from .places import Answer, Place

MAC = "02:83:00:00:00:03"
# Of a line that a terminal takes, which is less than 4096 bytes.
PIECE = 2000


class Edge(Place):
    """The link is named `edge`, whichever kind of guest is behind it."""

    link = "edge"
    home = "/data"
    programs = "/usr/local/bin"
    trusts_compiled = True

    init = "/sbin/vyr-init"

    def __init__(self, network, work, kind="uml", place="edge"):
        super().__init__(network, work)
        self.settings = settings(place)
        self.kind = kind
        self.name = f"{place}-{kind}"
        # Where there is no hardware to do it, each instruction is made of many.
        self.emulated = kind == "qemu"
        self.disk = self.vm = self.line = None
        self.console = work / f"{self.name}.console"
        self.boots = []
        self.orders, self.taken, self.answers, self.news = 0, None, {}, threading.Condition()

    def up(self, programs):
        self.disk = disk.image(self.work, programs, self.settings["disk-mib"], [self.kind])
        self.network.tap(self.link)
        self.boot()

    def down(self):
        self.power_off()
        call("ip", "-n", self.network.centre, "link", "delete", self.link, check=False)
        if self.disk:
            self.disk.unlink(missing_ok=True)

    def boot(self):
        """Starts the guest with its disk as it is, and waits until it listens."""
        began = time.monotonic()
        memory, address = self.settings["memory-mib"], self.settings["address"]
        ours, theirs = socket.socketpair()
        # Made new by each boot: an answer of an earlier one may be cut short.
        self.answers, self.line = {}, ours
        boot = f"root={{root}} rw init={self.init} vyr.address={address} vyr.line={{line}} quiet panic=-1"
        if self.kind == "uml":
            kernel, _ = disk.uml()
            end = theirs.fileno()
            words = ["env", f"LD_PRELOAD={disk.registers()}", kernel, f"ubd0={self.disk}", f"mem={memory}M", f"eth0=tuntap,{self.link},{MAC}"]
            words += ["con=null", "con0=null,fd:1", f"ssl0=fd:{end},fd:{end}", *boot.format(root="/dev/ubda", line="ttyS0").split()]
        else:
            kernel, initramfs, _ = disk.qemu_kernel()
            words = [tool("qemu"), "-accel", "tcg,thread=multi", "-cpu", "max", "-machine", "pc", "-m", f"{memory}M", "-smp", str(self.settings["cpus"])]
            words += ["-nodefaults", "-display", "none", "-no-reboot", "-serial", "file:/dev/stdout"]
            words += ["-chardev", f"socket,id=line,fd={theirs.fileno()}", "-device", "virtio-serial-pci", "-device", "virtserialport,chardev=line"]
            words += ["-drive", f"file={self.disk},format=raw,if=virtio,cache=writeback"]
            words += ["-netdev", f"tap,id=net,ifname={self.link},script=no,downscript=no"]
            words += ["-device", f"virtio-net-pci,netdev=net,mac={MAC}", "-kernel", kernel, "-initrd", initramfs]
            words += ["-append", boot.format(root="/dev/vda", line="vport*") + f" console=ttyS0 net.ifnames=0 systemd.getty_auto=no vyr.time={int(time.time())}"]
        # A namespace of processes: whatever the guest is made of on this side ends with it.
        words = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *map(str, words)]
        with open(self.console, "ab") as console:
            self.vm = subprocess.Popen(
                self.network.inside(*words), stdin=subprocess.DEVNULL, stdout=console, stderr=console,
                pass_fds=[theirs.fileno()], start_new_session=True, cwd=self.work, env={**os.environ, "HOME": str(self.work), "TMPDIR": "/dev/shm"},
            )
        theirs.close()
        threading.Thread(target=self._listen, args=(ours,), daemon=True).start()
        with self.news:
            if not self.news.wait_for(lambda: 0 in self.answers, timeout=300 if self.emulated else 120):
                tail = self.console.read_text(encoding="utf-8", errors="replace")[-2000:]
                raise Failure(f"the guest ({self.kind}) didn't come up; its console ends with:\n{tail}")
        self.boots.append(round(time.monotonic() - began, 2))
        if self.settings["link"]["shaped"]:
            self.shape()

    def shape(self, on=True):
        link = self.settings["link"]
        words = [link["rate-kbit"], link["delay-ms"], link["jitter-ms"], link["loss-percent"]] if on else ["off"]
        self.sh("shape " + " ".join(map(str, words)))

    def power_off(self):
        """As a power cut is: at once, with whatever the guest had not written yet."""
        if self.vm and self.vm.poll() is None:
            # The guest itself: who made the namespace for it then ends as well, and takes note of its end.
            for pid in Path(f"/proc/{self.vm.pid}/task/{self.vm.pid}/children").read_text(encoding="ascii").split():
                os.kill(int(pid), signal.SIGKILL)
            self.vm.wait()
        if self.line:
            self.line.close()
            self.line = None

    def power_cut(self):
        self.power_off()
        self.boot()

    def _listen(self, line):
        rest = b""
        while True:
            try:
                got = line.recv(65536)
            except OSError:
                got = b""
            if not got:
                with self.news:
                    if line is self.line or self.line is None:
                        self.answers["gone"] = True
                    self.news.notify_all()
                return
            *lines, rest = (rest + got).split(b"\n")
            for text in lines:
                words = text.strip().split()
                if not words or words[0] != b"@@":
                    continue
                with self.news:
                    if line is self.line and len(words) == 3:
                        self.taken = int(words[1])
                    elif line is self.line and len(words) == 5:
                        out, err = (base64.b64decode(word[:-1]).decode(errors="replace") for word in words[3:])
                        self.answers[int(words[1])] = Answer(int(words[2]), out, err)
                    self.news.notify_all()

    def order(self, script, timeout):
        self.orders += 1
        number = self.orders
        text, line = base64.b64encode(script.encode()).decode(), self.line
        for at in range(0, len(text), PIECE):
            self.taken = None
            self._send(line, f"{number} + {text[at : at + PIECE]}\n")
            with self.news:
                if not self.news.wait_for(lambda: self.taken == number or "gone" in self.answers, timeout=60):
                    raise Failure(f"{self.name} takes no orders")
        self._send(line, f"{number} .\n")
        with self.news:
            if not self.news.wait_for(lambda: number in self.answers or "gone" in self.answers, timeout=timeout):
                raise Failure(f"{self.name} didn't answer within {timeout} s: {script.strip().splitlines()[-1]}")
            if number not in self.answers:
                raise Failure(f"{self.name} lost its power during: {script.strip().splitlines()[-1]}")
            return self.answers.pop(number)

    def serve_arguments(self):
        # Few at once: each has addresses reserved for it, of which User-Mode Linux has 512 GiB.
        return "--listen 127.0.0.1:0 --max-running 8"

    def kernel_facts(self):
        return {"boots_s": self.boots, "kernel_of": "User-Mode Linux" if self.kind == "uml" else "QEMU, software emulation (tcg)"}

    def _send(self, line, text):
        try:
            line.sendall(text.encode())
        except OSError as e:
            raise Failure(f"{self.name} is gone: {e}") from None
