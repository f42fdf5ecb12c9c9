"""Whether the edge's link is as bad as it is said to be: counted, not believed."""

import math
import re
import statistics
import subprocess
import sys
import time

from .common import Failure
from .network import CENTRE

# Sends datagrams at a rate, and says when it ended. Run at the centre.
FLOOD = """
import socket, sys, time
address, port, rate, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
began, sent = time.monotonic(), 0
while (now := time.monotonic() - began) < seconds:
    if sent * 1228 * 8 < rate * now:
        sock.sendto(b"x" * 1200, (address, port))
        sent += 1
    else:
        time.sleep(0.001)
"""


def check(place, centre, count):
    """Pings and floods through the link, and compares with the settings; fails where chance doesn't explain the difference."""
    link = place.settings["link"]
    text = place.sh(f"ping -c {count} -i 0.2 -W 2 {CENTRE}", timeout=count * 0.4 + 60, check=False).out
    times = [float(ms) for ms in re.findall(r"time=([0-9.]+) ms", text)]
    lost = count - len(times)
    expected = 1 - (1 - link["loss-percent"] / 100) ** 2
    # A seldom event's number is Poisson's; four standard deviations are seen once in some ten thousand.
    spread = math.sqrt(count * expected * (1 - expected))
    # Quartiles: a machine that has other work delays some pings by a lot, and that isn't the link.
    first, middle, third = statistics.quantiles(times, n=4)
    found = {
        "pings": count,
        "lost": lost,
        "lost_expected": round(count * expected, 1),
        "round_trip_ms": {"least": min(times), "quartiles": [round(first, 1), round(middle, 1), round(third, 1)], "most": max(times)},
        "rate_kbit": {"in": round(rate_in(place, centre, link), 1), "out": round(rate_out(place), 1)},
        "meant": link,
    }
    wrong = []
    if abs(lost - count * expected) > 4 * spread + 1:
        wrong.append(f"{lost} of {count} were lost, and {count * expected:.0f} are to be expected")
    # Jitter is even between its bounds, so that half of all is within half of them; four standard deviations of a median, and
    # the packet's own time on the wire and in two kernels.
    if abs(middle - link["delay-ms"]) > 4 * link["jitter-ms"] / math.sqrt(count) + 10:
        wrong.append(f"the median round trip is {middle:.1f} ms")
    if not 0.6 < (third - first) / link["jitter-ms"] < 1.5:
        wrong.append(f"half of the round trips are {first:.1f} to {third:.1f} ms")
    for way, rate in found["rate_kbit"].items():
        if not 0.85 < rate / link["rate-kbit"] < 1.1:
            wrong.append(f"{rate:.0f} kbit/s go {way}")
    if wrong:
        raise Failure(f"the link isn't what it is meant to be: {'; '.join(wrong)}\n{found}")
    return found


def rate_in(place, centre, link):
    """What comes through when three times as much is sent, in kbit/s."""
    words = centre.network.inside(sys.executable, "-c", FLOOD, place.settings["address"], 9, 3000 * link["rate-kbit"], 9)
    flood = subprocess.Popen(words, stdin=subprocess.DEVNULL)
    look = "cat /sys/class/net/ifb0/statistics/tx_bytes /proc/uptime"
    try:
        time.sleep(2)
        first = place.sh(look).out.split()
        time.sleep(5)
        last = place.sh(look).out.split()
    finally:
        flood.kill()
        flood.wait()
    # What waits in the queue is nobody else's to wait for.
    time.sleep(4)
    return (int(last[0]) - int(first[0])) * 8 / 1000 / (float(last[1]) - float(first[1]))


def rate_out(place):
    """The same for what goes out; counted behind the guest, by its port."""
    place.sh(f"setsid ping -q -s 1172 -i 0.004 -w 9 {CENTRE} >/dev/null 2>&1 </dev/null &\n:")
    time.sleep(2)
    first, began = place.wire()["sent"], time.monotonic()
    time.sleep(5)
    rate = (place.wire()["sent"] - first) * 8 / 1000 / (time.monotonic() - began)
    time.sleep(5)
    return rate
