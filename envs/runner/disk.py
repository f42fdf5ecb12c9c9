"""The edge guest's file system, kernels and modules, out of Debian's packages."""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

from .common import CACHE, ENVS, Failure, call, made_once, packages, tool, unpacked

# What each kernel needs beyond what is built into it.
MODULES = {
    "uml": ["ifb", "sch_netem", "sch_ingress", "act_mirred", "cls_matchall"],
    "qemu": ["virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "ext4", "ifb", "sch_netem", "sch_ingress", "act_mirred", "cls_matchall"],
}
QEMU_KERNEL = ("linux-image-cloud-amd64", "6.1")


def key(*parts):
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]


def root():
    """The tree of the guest's files, without a kernel's modules and without VYR; made once."""
    listing, init, shape, orders = (ENVS / "edge" / name for name in ("packages", "init", "shape", "orders"))

    def make(folder):
        versions = unpacked(packages(listing), folder)
        for name in ("proc", "sys", "dev", "run", "tmp", "root", "data", "etc/ssl/certs", "usr/local/bin", "sbin"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        busybox = next(p for p in (folder / "bin/busybox", folder / "usr/bin/busybox") if p.exists())
        inside = "/" + str(busybox.relative_to(folder))
        there = {path.name for name in ("bin", "sbin", "usr/bin", "usr/sbin") for path in folder.glob(f"{name}/*")}
        for applet in call(busybox, "--list-full").splitlines():
            path = folder / applet
            path.parent.mkdir(parents=True, exist_ok=True)
            # A package's own program is the better one: busybox's `tc` knows no netem.
            if path.name not in there:
                path.symlink_to(inside)
        certificates = sorted((folder / "usr/share/ca-certificates").rglob("*.crt"))
        (folder / "etc/ssl/certs/ca-certificates.crt").write_text("".join(p.read_text(encoding="utf-8") for p in certificates), encoding="utf-8")
        (folder / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n", encoding="utf-8")
        (folder / "etc/group").write_text("root:x:0:\n", encoding="utf-8")
        (folder / "etc/hosts").write_text("127.0.0.1 localhost\n", encoding="utf-8")
        for name in ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/bash-completion", "usr/lib/x86_64-linux-gnu/gconv"):
            shutil.rmtree(folder / name, ignore_errors=True)
        init_to = folder / "sbin/vyr-init"
        shutil.copy(init, init_to)
        shutil.copy(shape, folder / "usr/local/bin/shape")
        shutil.copy(orders, folder / "usr/local/bin/orders")
        (folder / "etc/versions.json").write_text(json.dumps(versions), encoding="utf-8")

    return made_once(CACHE / f"root-{key(*(p.read_text(encoding='utf-8') for p in (listing, init, shape, orders, Path(__file__))))}", make)


def modules(kind, tree, into, wanted):
    """Copies modules with all that they need; the kernel's release, and the order in which they are to be loaded."""
    (release,) = [p.name for p in tree.iterdir() if (p / "modules.dep").exists() or (p / "kernel").exists()]
    files = {p.name.split(".")[0].replace("-", "_"): p for p in (tree / release).rglob("*.ko*")}
    builtin = tree / release / "modules.builtin"
    known = {Path(line).stem.replace("-", "_") for line in builtin.read_text().splitlines()} if builtin.exists() else set()
    order = []

    def need(name):
        if name in order or (name not in files and name in known):
            return
        if name not in files:
            raise Failure(f"the kernel {release} ({kind}) has no module {name}")
        for other in needs(files[name]):
            need(other)
        order.append(name)

    for name in wanted:
        need(name)
    to = into / "lib/modules" / release
    to.mkdir(parents=True, exist_ok=True)
    for name in order:
        shutil.copy(files[name], to / f"{name}.ko")
    # In an order in which each finds what it needs.
    (to / "modules.dep").write_text(
        "".join(f"{name}.ko:{''.join(f' {other}.ko' for other in reversed(order[:i]) if other in closure(files, name))}\n" for i, name in enumerate(order)),
        encoding="utf-8",
    )
    return release, order


def needs(file):
    """The modules that one says it needs."""
    data = file.read_bytes()
    at = data.find(b"\0depends=")
    if at < 0:
        return []
    text = data[at + 9 : data.index(b"\0", at + 9)].decode()
    return [name.replace("-", "_") for name in text.split(",") if name]


def closure(files, name):
    found, ahead = set(), [name]
    while ahead:
        for other in needs(files[ahead.pop()]):
            if other in files and other not in found:
                found.add(other)
                ahead.append(other)
    return found


def uml():
    """The kernel that is a program, and the folder of its modules."""
    program = Path(tool("linux.uml"))
    return program, program.parent.parent / "lib/uml/modules"


def registers():
    """What User-Mode Linux is started with, for processors with more registers than it knows; made once for each text of it."""
    source = ENVS / "runner/registers.c"

    def make(folder):
        call("cc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", folder / "registers.so", source)

    return made_once(CACHE / f"registers-{key(source.read_text(encoding='utf-8'))}", make) / "registers.so"


def qemu_kernel():
    """A kernel for virtual machines with its modules, and an initramfs that finds the disk; made once."""

    def make(folder):
        # The package without a version in its name is empty, and names the one that has.
        call(ENVS / "tools", "debs", "own", folder, QEMU_KERNEL[0])
        (named,) = folder.glob("*.deb")
        image = re.search(r"linux-image-[^ ,]+", call("dpkg-deb", "-f", named, "Depends"))[0]
        named.unlink()
        (folder / "versions.json").write_text(json.dumps(unpacked([(image, QEMU_KERNEL[1])], folder)), encoding="utf-8")
        first = folder / "first"
        for name in ("bin", "proc", "dev", "new"):
            (first / name).mkdir(parents=True)
        shutil.copy(tool("busybox"), first / "bin/busybox")
        release, order = modules("qemu", folder / "lib/modules", first, MODULES["qemu"])
        load = "".join(f"insmod /lib/modules/{release}/{name}.ko\n" for name in order)
        (first / "init").write_text(
            "#!/bin/busybox sh\nset -e\n/bin/busybox --install -s /bin\nexport PATH=/bin\nmount -t proc proc /proc\nmount -t devtmpfs devtmpfs /dev\n"
            f"{load}while [ ! -b /dev/vda ]; do usleep 20000; done\nmount -t ext4 -o rw /dev/vda /new\n"
            "for word in $(cat /proc/cmdline); do case $word in init=*) init=${word#*=} ;; vyr.address=*) address=${word#*=} ;; vyr.time=*) date -u -s @${word#*=} >/dev/null ;; esac; done\n"
            # Before anything that would want more packages for it.
            "ip link set eth0 up\nip address add $address/24 dev eth0\n"
            "umount /proc\numount /dev\nexec switch_root /new $init\n",
            encoding="utf-8",
        )
        (first / "init").chmod(0o755)
        (folder / "initramfs").write_bytes(cpio(first))

    folder = made_once(CACHE / f"qemu-{key(QEMU_KERNEL, Path(__file__).read_text(encoding='utf-8'))}", make)
    (kernel,) = (folder / "boot").glob("vmlinuz-*")
    return kernel, folder / "initramfs", folder / "lib/modules"


def cpio(tree):
    """An archive in the kernel's own format (newc)."""
    out = bytearray()

    def entry(name, mode, data, number):
        head = [number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
        out.extend(b"070701" + b"".join(b"%08X" % field for field in head) + name.encode() + b"\0")
        out.extend(b"\0" * (-len(out) % 4) + data)
        out.extend(b"\0" * (-len(out) % 4))

    for number, path in enumerate(sorted(tree.rglob("*")), 1):
        name = str(path.relative_to(tree))
        if path.is_dir():
            entry(name, 0o40755, b"", number)
        else:
            entry(name, 0o100755, path.read_bytes(), number)
    entry("TRAILER!!!", 0, b"", 0)
    return bytes(out)


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


ORDERS = """[Unit]
After=network.target
[Service]
ExecStart=/usr/local/sbin/orders /dev/vport*
KillMode=process
[Install]
WantedBy=multi-user.target
"""


def debian(work, programs, deb):
    """A disk with a whole Debian and systemd, the package beside it, and somebody who takes orders."""
    packages = ENVS / "packages"
    root = call("bash", "-euo", "pipefail", "-c", f". {packages}/common; . {packages}/roots; root_of systemd ca-certificates").splitlines()[-1]
    tree, disk = work / "cloud-root", work / "cloud.ext4"
    call("cp", "-a", root, tree)
    modules("qemu", qemu_kernel()[2], tree, MODULES["qemu"])
    for program in programs:
        shutil.copy(program, tree / "usr/local/bin" / program.name)
    shutil.copy(deb, tree / "srv/vyr.deb")
    shutil.copy(ENVS / "edge/orders", tree / "usr/local/sbin/orders")
    system = tree / "etc/systemd/system"
    (system / "orders.service").write_text(ORDERS, encoding="utf-8")
    wants = system / "multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / "orders.service").symlink_to("/etc/systemd/system/orders.service")
    (tree / "etc/hosts").write_text("127.0.0.1 localhost\n", encoding="ascii")
    (tree / "etc/resolv.conf").unlink(missing_ok=True)
    (tree / "etc/resolv.conf").write_text("", encoding="ascii")
    (tree / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n", encoding="ascii")
    write(tree, disk, 2048)
    return disk


def write(tree, disk, mib):
    """A file system with the files of the tree, which is gone then."""
    paths = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
    call("mkfs.ext4", "-q", "-L", disk.stem, "-d", tree, disk, f"{mib}M", env=paths)
    shutil.rmtree(tree)


def image(work, programs, mib, kinds):
    """A disk for one guest: the tree, the modules of these kernels, and these programs."""
    tree, disk = work / "edge-root", work / "edge.ext4"
    call("cp", "-a", root(), tree)
    sources = {"uml": lambda: uml()[1], "qemu": lambda: qemu_kernel()[2]}
    for kind in kinds:
        modules(kind, sources[kind](), tree, MODULES[kind])
    for program in programs:
        shutil.copy(program, tree / "usr/local/bin" / program.name)
        (tree / "usr/local/bin" / program.name).chmod(0o755)
    write(tree, disk, mib)
    return disk
