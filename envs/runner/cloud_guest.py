"""The cloud with a kernel of its own: a Debian with systemd under QEMU, where VYR comes from its package and runs as a service."""

import json
import time

from . import disk
from .common import Failure, say
from .guest import Edge


class CloudGuest(Edge):
    """Emulated: it proves that the package installs and the service runs, and says nothing about times."""

    link = "cloud"
    home = "/root"
    trusts_compiled = False
    init = "/lib/systemd/systemd"
    deb = None

    def __init__(self, network, work):
        super().__init__(network, work, "qemu", "cloud")

    def up(self, programs):
        if not self.deb:
            raise Failure("cloud-qemu installs a package: make one with envs/packages/build, and name it with --deb")
        self.disk = disk.debian(self.work, [p for p in programs if p.name != "vyr"], self.deb)
        self.network.tap(self.link)
        self.boot()
        began = time.monotonic()
        self.sh("export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8\ndpkg --install /srv/vyr.deb", timeout=600)
        say(f"{self.name}: booted in {self.boots[-1]} s, the package installed in {time.monotonic() - began:.1f} s")

    def serve_arguments(self):
        return "--listen 127.0.0.1:0"

    def service(self, runs, name, repeats):
        """The unit of the package, with TLS and a token; tasks come from the centre. A record for each."""
        centre, address = runs.centre, f"{self.settings['address']}:{self.settings['port']}"
        files = {"node.pem": "cloud.pem", "node.key": "cloud.key", "ca.pem": "ca.pem", "signer.pub": "signer.pub"}
        texts = "".join(f"cat >{to} <<'END'\n{(centre.folder / source).read_text(encoding='ascii').strip()}\nEND\n" for to, source in files.items())
        token = self.sh(
            f"mkdir -p /etc/vyr /etc/systemd/system/vyr.service.d\ncd /etc/vyr\n{texts}"
            "vyr --trust-policy /etc/vyr/trust.toml trust add --key signer.pub >/dev/null\n"
            "vyr token add centre --file /etc/vyr/tokens | tail -n 1\nchown -R vyr: /etc/vyr\nchmod -R go= /etc/vyr\n"
            "cat >/etc/systemd/system/vyr.service.d/cloud.conf <<'END'\n[Service]\nExecStart=\n"
            f"ExecStart=/usr/bin/vyr serve --home /var/lib/vyr --trust-policy /etc/vyr/trust.toml --ca-file /etc/vyr/ca.pem --listen {address} "
            "--tls-cert /etc/vyr/node.pem --tls-key /etc/vyr/node.key --token-file /etc/vyr/tokens\nEND\n"
            "systemctl daemon-reload >&2\nsystemctl enable --now vyr >&2",
            timeout=300,
        ).out.strip()
        state = self.sh("systemctl show vyr --property ActiveState,SubState,MainPID,NRestarts,User --value | tr '\\n' ' '").out.strip()
        say(f"{self.name}: the service is {state}")
        (centre.folder / "token").write_text(token, encoding="ascii")
        node = ["--node", f"https://{address}", "--node-ca", centre.folder / "ca.pem", "--token-file", centre.folder / "token"]
        refused = centre.run("tasks", *node[:4], check=False)
        if refused.returncode == 0 or "token" not in refused.stderr:
            raise Failure(f"{self.name}: without a token the service answers {refused.stdout}{refused.stderr}")
        for number in range(repeats):
            before, began = self.wire(), time.monotonic()
            out = centre.run("submit", *node, "--logs", centre.artifacts[name], "--", "one", "two words", raw=True)
            wall = int((time.monotonic() - began) * 1e6)
            (task,) = json.loads(centre.run("tasks", *node, "--limit", 1, "--output", "json"))
            after = self.wire()
            runs.record(
                name, "service", number, digest=task["digest"], start_tier=task["tier"], code_origin=task.get("code_origin"), prepare_us=task.get("prepare_us"),
                instantiate_us=task.get("instantiate_us"), run_us=task.get("run_us"), peak_memory_bytes=task.get("peak_memory_bytes"), wall_us=wall,
                user_us=0, system_us=0, peak_kib=0, wire={way: after[way] - before[way] for way in before}, outputs={"stdout": disk.sha256(out)},
                systemd=state,
            )
        self.sh("systemctl disable --now vyr")
