"""What all parts of the runner say and start, and where things are."""

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

ENVS = Path(__file__).resolve().parent.parent
PROJECT = ENVS.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vyr" / "envs"


class Failure(Exception):
    """Something that ends the whole run, in words for who started it."""


BEGAN = time.monotonic()


def say(text):
    print(f"{time.monotonic() - BEGAN:6.1f} s  {text}", file=sys.stderr, flush=True)


def call(*words, check=True, **more):
    """Runs a command of this machine; its output, or a failure with what it said."""
    done = subprocess.run([str(word) for word in words], text=True, capture_output=True, check=False, **more)
    if check and done.returncode != 0:
        raise Failure(f"{' '.join(map(str, words))}: exit code {done.returncode}\n{done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip() if check else done


def settings(name):
    with open(ENVS / name / "environment.toml", "rb") as file:
        return tomllib.load(file)


def tool(name):
    """The path of a tool that `envs/tools envs` has installed."""
    return call(ENVS / "tools", "path", name)


@contextlib.contextmanager
def locked(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def made_once(folder, make):
    """A folder of the cache that is there whole or not at all; `make` fills it."""
    with locked(folder.with_name(folder.name + ".lock")):
        if not folder.exists():
            making = folder.with_name(folder.name + ".making")
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir(parents=True)
            make(making)
            making.rename(folder)
            # What it takes the place of, whose list or recipe was another one.
            kind = folder.name.split("-")[0]
            for old in folder.parent.glob(f"{kind}-*"):
                if old.is_dir() and old != folder and not old.name.endswith(".making"):
                    shutil.rmtree(old)
    return folder


def packages(listing):
    """(name, version) of each package that a list of ours has."""
    lines = (re.sub("#.*", "", line).split() for line in listing.read_text(encoding="utf-8").splitlines())
    return [(line[0], line[1]) for line in lines if line]


def unpacked(wanted, into):
    """Unpacks packages of this system's suite; their versions."""
    debs = into / ".debs"
    debs.mkdir()
    call(ENVS / "tools", "debs", "own", debs, *(name for name, _ in wanted))
    got = {}
    for name, pin in wanted:
        (deb,) = debs.glob(f"{name}_*.deb")
        got[name] = call("dpkg-deb", "-f", deb, "Version")
        if not got[name].startswith(pin):
            say(f"note: {name} is {got[name]}; {pin} is what was tried")
        call("dpkg-deb", "-x", deb, into)
    shutil.rmtree(debs)
    return got
