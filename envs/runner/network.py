"""The network between the environments: a namespace that is the centre, with a bridge; each environment has a port of it."""

import json

from .common import call

CENTRE = "10.83.0.1"


class Network:
    def __init__(self, mark):
        self.mark = mark
        self.centre = f"vyr-centre-{mark}"
        self.places = []

    def up(self):
        call("ip", "netns", "add", self.centre)
        inside = ("ip", "-n", self.centre)
        call(*inside, "link", "set", "lo", "up")
        call(*inside, "link", "add", "wire", "type", "bridge")
        call(*inside, "address", "add", f"{CENTRE}/24", "dev", "wire")
        call(*inside, "link", "set", "wire", "up")

    def namespace(self, name, address):
        """A namespace with one link, to the centre; its name."""
        space = f"vyr-{name}-{self.mark}"
        call("ip", "netns", "add", space)
        self.places.append(space)
        call("ip", "-n", self.centre, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", space)
        call("ip", "-n", self.centre, "link", "set", name, "master", "wire", "up")
        call("ip", "-n", space, "link", "set", "lo", "up")
        call("ip", "-n", space, "address", "add", f"{address}/24", "dev", "eth0")
        call("ip", "-n", space, "link", "set", "eth0", "up")
        return space

    def tap(self, name):
        """A port for a guest's network card."""
        call("ip", "-n", self.centre, "tuntap", "add", "dev", name, "mode", "tap")
        call("ip", "-n", self.centre, "link", "set", name, "master", "wire", "up")

    def link(self, name, up):
        call("ip", "-n", self.centre, "link", "set", name, "up" if up else "down")

    def bytes(self, name):
        """What the environment has received and sent, as its port counts it: every frame with its headers."""
        (port,) = json.loads(call("ip", "-n", self.centre, "-j", "-s", "link", "show", "dev", name))
        return {"received": port["stats64"]["tx"]["bytes"], "sent": port["stats64"]["rx"]["bytes"]}

    def inside(self, *words):
        """A command, as it is run at the centre."""
        return ("ip", "netns", "exec", self.centre, *map(str, words))

    def down(self):
        for space in (*self.places, self.centre):
            call("ip", "netns", "delete", space, check=False)
