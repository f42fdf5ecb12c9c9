"""What every environment is to the runner: a place where a script runs. Here are those that share this machine's kernel."""

import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from .common import Failure, call, settings


@dataclass
class Answer:
    code: int
    out: str
    err: str


class Place:
    """`home` is the folder for everything, `programs` the folder with vyr and the others, as the place itself names them."""

    name = link = home = programs = ""
    kind, emulated, trusts_compiled = "namespace", False, False
    node, starts_nodes = "", True

    def __init__(self, network, work):
        self.network, self.work = network, work

    def prelude(self):
        return (
            f"export HOME={self.home} VYR_HOME={self.home}/vyr XDG_RUNTIME_DIR= NO_COLOR=1 NODE='{self.node}'\n"
            f"export PATH={self.programs}:/usr/sbin:/usr/bin:/sbin:/bin\ncd {self.home}\n"
        )

    def sh(self, script, timeout=600, check=True):
        """Runs a script in the place, as its user there."""
        answer = self.order(self.prelude() + script, timeout)
        if check and answer.code != 0:
            raise Failure(f"{self.name}: exit code {answer.code} of\n{script.strip()}\n{answer.err.strip()}\n{answer.out.strip()}"[:4000])
        return answer

    def facts(self):
        """What the place says of itself."""
        answer = self.sh(
            "uname -r; uname -m; id -u; grep -c ^processor /proc/cpuinfo; nproc\n"
            "awk '/MemTotal/ { print $2 }' /proc/meminfo; df -Pk . | awk 'NR == 2 { print $2 }'\n"
            "sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1; vyr version | head -n 1; /sbin/tc qdisc show 2>/dev/null | grep netem\n:"
        ).out.splitlines()
        names = ["kernel", "machine", "uid", "processors", "usable_processors", "memory_kib", "disk_kib", "cpu", "vyr"]
        return {
            "environment": self.name,
            "kind": self.kind,
            "emulated": self.emulated,
            **dict(zip(names, answer)),
            "netem": answer[len(names) :],
            "settings": self.settings,
            **self.kernel_facts(),
        }

    def kernel_facts(self):
        return {"kernel_of": "this machine"}

    def service(self, runs, name, repeats):
        """Tasks for VYR as a service of the place's system, where it has one."""

    def wire(self):
        return self.network.bytes(self.link)

    def serve_arguments(self):
        """How the place's node listens."""
        return "--listen 127.0.0.1:0"

    def before_node(self, _centre):
        """What has to be there before its node starts, as a script."""
        return ":"


class Namespace(Place):
    """A place with this machine's kernel and a network of its own."""

    def __init__(self, network, work):
        super().__init__(network, work)
        self.settings = self.configuration()
        self.link = self.name
        self.folder = work / self.name
        self.home, self.programs = str(self.folder / "home"), str(self.folder / "bin")
        self.space, self.started = None, []

    def configuration(self):
        return settings(self.name)

    def up(self, programs):
        for folder in (self.home, self.programs):
            Path(folder).mkdir(parents=True)
        for program in programs:
            shutil.copy(program, self.programs)
        self.space = self.network.namespace(self.name, self.settings["address"])

    def down(self):
        # Whatever was left in the background.
        if self.space:
            for pid in call("ip", "netns", "pids", self.space, check=False).stdout.split():
                os.kill(int(pid), signal.SIGKILL)
            for _ in range(100):
                if not call("ip", "netns", "pids", self.space, check=False).stdout.split():
                    break
                time.sleep(0.02)

    def wrapped(self):
        """What a command is put behind, so that it runs in the place."""
        return ["ip", "netns", "exec", self.space]

    def order(self, script, timeout):
        words = [*self.wrapped(), "env", "-i", "/bin/sh", "-c", script]
        with subprocess.Popen(words, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as child:
            try:
                out, err = child.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                raise Failure(f"{self.name} didn't answer within {timeout} s: {script.strip().splitlines()[-1]}") from None
            return Answer(child.returncode, out, err)


class Laptop(Namespace):
    name = "laptop"

    def up(self, programs):
        super().up(programs)
        uid = self.settings["uid"]
        os.chown(self.home, uid, uid)
        os.chmod(self.home, 0o700)

    def wrapped(self):
        uid = str(self.settings["uid"])
        return [*super().wrapped(), "setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]


class Cloud(Namespace):
    name = "cloud"

    def __init__(self, network, work):
        super().__init__(network, work)
        self.groups, self.limits = [], {}

    def up(self, programs):
        super().up(programs)
        memory = self.settings["memory-mib"] << 20
        mark = f"vyr-cloud-{self.network.mark}"
        if Path("/sys/fs/cgroup/memory").is_dir():
            group, file, members = Path("/sys/fs/cgroup/memory") / mark, "memory.limit_in_bytes", "cgroup.procs"
        else:
            group, file, members = Path("/sys/fs/cgroup") / mark, "memory.max", "cgroup.procs"
        try:
            group.mkdir()
            self.groups.append(group)
            (group / file).write_text(str(memory), encoding="ascii")
            self.limits["memory"] = f"{self.settings['memory-mib']} MiB by {group.parent}"
            self.members = group / members
        except OSError as e:
            self.limits["memory"] = f"not limited: {e}"
            self.members = Path("/dev/null")
        cpus = sorted(os.sched_getaffinity(0))[: self.settings["cpus"]]
        self.cpus = ",".join(map(str, cpus))
        self.limits["cpus"] = f"{len(cpus)} by affinity"

    def wrapped(self):
        join = ["/bin/sh", "-c", f'echo $$ >{self.members}; exec "$@"', "sh"]
        return [*join, "taskset", "--cpu-list", self.cpus, *super().wrapped()]

    def kernel_facts(self):
        return {"kernel_of": "this machine", "limits": self.limits}

    def serve_arguments(self):
        address = f"{self.settings['address']}:{self.settings['port']}"
        # Its own user's tasks come in by the same door as everybody's.
        self.node = f"--node https://{address} --node-ca {self.home}/keys/ca.pem --token-file {self.home}/token"
        return f"--no-socket --listen {address} --tls-cert $HOME/keys/node.pem --tls-key $HOME/keys/node.key --token-file $HOME/tokens"

    def before_node(self, centre):
        files = {"node.pem": centre.folder / "cloud.pem", "node.key": centre.folder / "cloud.key"}
        texts = "".join(f"cat >keys/{name} <<'END'\n{path.read_text(encoding='ascii').strip()}\nEND\n" for name, path in files.items())
        return f"{texts}rm -f tokens token\n(umask 077; vyr token add runner --file $HOME/tokens | tail -n 1 >token)"

    def down(self):
        super().down()
        for group in self.groups:
            for _ in range(100):
                try:
                    group.rmdir()
                    break
                except OSError:
                    time.sleep(0.02)
