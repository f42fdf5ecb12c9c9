"""The centre: a registry with TLS, the keys, and what is pushed there, once."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from .common import CACHE, ENVS, PROJECT, Failure, call, say, tool
from .network import CENTRE

PORT = 5000
REGISTRY = f"{CENTRE}:{PORT}"

CONFIG = """version: 0.1
log: {{level: warn}}
storage: {{filesystem: {{rootdirectory: {folder}/registry}}, delete: {{enabled: true}}}}
http: {{addr: "{address}", secret: nothing-to-hide, tls: {{certificate: {folder}/centre.pem, key: {folder}/centre.key}}}}
"""


class Centre:
    """The home of whoever publishes, and of whoever verifies what comes back."""

    def __init__(self, network, work, vyr):
        self.network, self.vyr = network, vyr
        self.folder = work / "centre"
        self.env = {**os.environ, "HOME": str(self.folder), "VYR_HOME": str(self.folder / "vyr"), "NO_COLOR": "1"}
        self.env = {name: value for name, value in self.env.items() if not name.startswith("VYR_") or name == "VYR_HOME"}
        self.daemon = self.programs = None
        self.artifacts, self.about = {}, {}

    def up(self):
        (self.folder / "vyr").mkdir(parents=True)
        self._certificates()
        config = self.folder / "registry.yml"
        config.write_text(CONFIG.format(folder=self.folder, address=REGISTRY), encoding="utf-8")
        (self.folder / "vyr/config.toml").write_text(f'[registry]\nca-files = ["{self.folder}/ca.pem"]\n', encoding="utf-8")
        with open(self.folder / "registry.log", "wb") as log:
            words = self.network.inside(tool("docker-registry"), "serve", config)
            self.daemon = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env)
        for _ in range(100):
            if call(*self.network.inside("sh", "-c", f"exec 2>&1; ss -Hltn 'sport = :{PORT}'")):
                break
            time.sleep(0.05)
        else:
            raise Failure("the registry didn't start: " + (self.folder / "registry.log").read_text(encoding="utf-8")[-2000:])
        call(self.vyr, "keygen", self.folder / "signer", env=self.env)
        call(self.vyr, "keygen", self.folder / "compiler", env=self.env)
        self.run("trust", "add", "--key", self.folder / "signer.pub")

    def down(self):
        if self.daemon:
            self.daemon.kill()
            self.daemon.wait()

    def run(self, *words, check=True, raw=False):
        """A verb of vyr at the centre; `raw`: its output to the byte."""
        done = call(*self.network.inside(self.vyr, *words), check=False, env=self.env)
        if check and done.returncode != 0:
            raise Failure(f"vyr {' '.join(map(str, words))}: exit code {done.returncode}\n{done.stderr.strip()}")
        return done if not check else done.stdout if raw else done.stdout.strip()

    def _certificates(self):
        new = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        at = self.folder
        call(*new, "-x509", "-days", "2", "-subj", "/CN=centre", "-keyout", at / "ca.key", "-out", at / "ca.pem")
        for name, address in (("centre", CENTRE), ("cloud", "10.83.0.4")):
            names = f"subjectAltName=IP:{address}"
            call(*new, "-subj", f"/CN={name}", "-addext", names, "-addext", "extendedKeyUsage=serverAuth", "-keyout", at / f"{name}.key", "-out", at / f"{name}.csr")
            call("openssl", "x509", "-req", "-in", at / f"{name}.csr", "-copy_extensions", "copy", "-CA", at / "ca.pem", "-CAkey", at / "ca.key", "-CAcreateserial", "-days", "2", "-out", at / f"{name}.pem")

    def push(self, name, file):
        """Pushes an artifact, signed, and beside it what is compiled of it for machines like this; its reference by digest."""
        before = self._stored()
        pushed = self.run("push", f"{REGISTRY}/h1/{name}:v1", file, "--sign-key", self.folder / "signer.key")
        reference = re.sub(r":v1@", "@", pushed)
        compiled = json.loads(self.run("compile", reference, "--push", "--key", self.folder / "compiler.key", "--output", "json"))
        self.artifacts[name] = reference
        self.about[name] = {"reference": reference, "bytes": file.stat().st_size, "compiled_bytes": compiled["bytes"], "pulled_bytes": self._stored() - before}
        say(f"pushed {reference}")

    def _stored(self):
        """The bytes of all that the registry holds: what one push adds is what a pull of it has to bring."""
        return sum(file.stat().st_size for file in (self.folder / "registry").rglob("blobs/**/data"))

    def natives(self):
        """The collector's programs that aren't Wasm: the device that it reads, and who verifies at the centre."""
        machine = os.uname().machine
        target = f"{machine}-unknown-linux-musl"
        source = PROJECT / "workloads/disconnected-collector"
        words = ["build", "--quiet", "--release", "--locked", "--target", target, "--target-dir", CACHE / "collector"]
        call("cargo", *words, "--bin", "device-simulator", "--bin", "collector-verify", cwd=source)
        self.programs = CACHE / "collector" / target / "release"
        return [self.programs / "device-simulator"]

    def facts(self):
        """What every environment is given, and when."""
        return {"artifacts": self.about, "registry": "docker-registry, TLS", "load": os.getloadavg(), "made_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def guest(name):
    """The file of a guest of workloads/, built if it isn't there."""
    return Path(call("cargo", "run", "--locked", "--quiet", "--package", "vyr-guests", "--", name, cwd=PROJECT).splitlines()[-1])


def measure():
    """The static program that says what a command takes; made once for each text of it."""
    source = ENVS / "runner/measure.c"
    folder = CACHE / "programs"
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "measure"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        call("cc", "-O2", "-Wall", "-static", "-o", program, source)
    return program


def stripped(vyr, work):
    """The binary as packages have it: without the names of functions."""
    folder = work / "programs"
    folder.mkdir(parents=True, exist_ok=True)
    to = folder / "vyr"
    call("strip", "-o", to, vyr)
    return to


if sys.version_info < (3, 11):
    raise SystemExit("envs/run: Python 3.11 or later is needed")
