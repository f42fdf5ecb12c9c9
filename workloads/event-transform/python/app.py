"""event-transform once more, in Python: README.md beside this folder is the contract of both, and their outputs are the same to the byte.

As a component (`componentize-py`, as `vyr-guests` builds it) it is the guest `event-transform-py`; `python3 app.py …` runs it, too.
"""

import json
import os
import re
import sys

try:
    from wit_world import exports
except ImportError:  # Not a component.
    exports = None

LONGEST = 65_536
LEVELS = 32
WINDOW = 60
BLOCK = 1 << 18

REASONS = (
    "too_long",
    "empty",
    "not_utf8",
    "too_deep",
    "not_json",
    "lone_surrogate",
    "not_object",
    "duplicate_key",
    "specversion",
    "id",
    "source",
    "type",
    "time",
    "data",
    "value_missing",
    "value_not_integer",
    "value_out_of_range",
    "unknown_source",
)

USAGE = "event-transform [FILE…] --reference FILE --to FOLDER [--max-rows N]"

TIME = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.[0-9]{1,9})?(?:Z|([+-])([0-9]{2}):([0-9]{2}))"
)
MONTHS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
SURROGATE = re.compile("[\ud800-\udfff]")
BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)


class Failure(Exception):
    """What ends the program early: attempted, why, next."""

    def __init__(self, code, attempted, why, hint):
        super().__init__(f"error: could not {attempted}\n  why: {why}\n  next: {hint}")
        self.code = code


class Dead(Exception):
    """A line is bad: its argument is the reason."""


class Object(list):
    """An object's members in their order, names twice included."""


class Integer(str):
    """A number without fraction and exponent, as it is written."""


class Number(str):
    """Another number."""


def refuse(name):
    """NaN and the infinities, which Python's reader knows and JSON doesn't."""
    raise ValueError(name)


read_json = json.JSONDecoder(
    object_pairs_hook=Object, parse_int=Integer, parse_float=Number, parse_constant=refuse
).decode
quoted = json.encoder.encode_basestring


def most_open(text):
    """How many brackets are open at once at most, outside of what looks like a string."""
    opened = most = 0
    for found in BRACKETS.finditer(text):
        bracket = found[0]
        if bracket in ("[", "{"):
            opened += 1
            most = max(most, opened)
        elif bracket in ("]", "}"):
            opened = max(opened - 1, 0)
    return most


def members(pairs):
    """The members by name; a name that is there twice is a reason."""
    named = dict(pairs)
    if len(named) != len(pairs):
        raise Dead("duplicate_key")
    return named


def some_text(event, name):
    text = event.get(name)
    # A number is a string of another class here.
    if type(text) is not str or not text:
        raise Dead(name)
    return text


def days(year, month, day):
    """Days from 1970-01-01."""
    year -= month <= 2
    era, of_era = divmod(year, 400)
    of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468


def seconds_of(text):
    """Whole seconds since 1970 in UTC."""
    found = TIME.fullmatch(text)
    if found is None:
        raise Dead("time")
    year, month, day, hour, minute, second = map(int, found.group(1, 2, 3, 4, 5, 6))
    if year < 1970 or not 1 <= month <= 12 or hour > 23 or minute > 59 or second > 59:
        raise Dead("time")
    leap = month == 2 and year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if not 1 <= day <= MONTHS[month - 1] + leap:
        raise Dead("time")
    ahead = 0
    if found[7] is not None:
        hours, minutes = int(found[8]), int(found[9])
        if hours > 23 or minutes > 59:
            raise Dead("time")
        ahead = hours * 3600 + minutes * 60
        if found[7] == "-":
            ahead = -ahead
    return days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - ahead


def value_of(data):
    if "value" not in data:
        raise Dead("value_missing")
    digits = data["value"]
    if type(digits) is not Integer:
        raise Dead("value_not_integer")
    # Python refuses to read very long numbers.
    value = int(digits) if len(digits) <= 20 else 1 << 64
    if not -(1 << 63) <= value < 1 << 63:
        raise Dead("value_out_of_range")
    return value


def judge(line, devices):
    """The parts of an event that goes on; None for one that is left out. `Dead` for a bad line."""
    if len(line) > LONGEST:
        raise Dead("too_long")
    if not line.strip(b" \t\r"):
        raise Dead("empty")
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise Dead("not_utf8") from None
    if text.count("[") + text.count("{") > LEVELS and most_open(text) > LEVELS:
        raise Dead("too_deep")
    try:
        event = read_json(text)
    except ValueError:
        raise Dead("not_json") from None
    if "\\u" in text and SURROGATE.search(json.dumps(event, ensure_ascii=False)):
        raise Dead("lone_surrogate")
    if type(event) is not Object:
        raise Dead("not_object")
    event = members(event)
    data = event.get("data")
    if type(data) is Object:
        data = members(data)
    if type(event.get("specversion")) is not str or event["specversion"] != "1.0":
        raise Dead("specversion")
    id = some_text(event, "id")
    source = some_text(event, "source")
    kind = some_text(event, "type")
    time = some_text(event, "time")
    seconds = seconds_of(time)
    if kind.rpartition(".")[2] == "heartbeat":
        return None
    if type(data) is not dict:
        raise Dead("data")
    value = value_of(data)
    device = devices.get(source)
    if device is None:
        raise Dead("unknown_source")
    return id, source, kind, time, seconds, value, device


def read_reference(path):
    """Site and zone by source."""
    attempted = f"read the reference table {path}"
    hint = "give a file with lines `source,site,zone`, and that as its first line"
    try:
        with open(path, "rb") as file:
            text = file.read().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(1, attempted, error, hint) from None
    header, *lines = text.removesuffix("\n").split("\n")
    if header != "source,site,zone":
        raise Failure(1, attempted, "its first line is not `source,site,zone`", hint)
    devices = {}
    for number, line in enumerate(lines, 2):
        fields = line.split(",")
        if len(fields) != 3:
            raise Failure(1, attempted, f"line {number} has {len(fields)} fields, not 3", hint)
        if any(not field or '"' in field or "\r" in field for field in fields):
            why = f"line {number} has a field that is empty or holds a quote or a carriage return"
            raise Failure(1, attempted, why, hint)
        source, site, zone = fields
        if source in devices:
            raise Failure(1, attempted, f"line {number} has the source `{source}` again", hint)
        devices[source] = site, f',"site":{quoted(site)},"zone":{quoted(zone)},"data":{{"value":'
    return devices


def csv_field(text):
    if any(special in text for special in ',"\r\n'):
        return '"' + text.replace('"', '""') + '"'
    return text


class Transform:
    def __init__(self, devices, to, most_rows):
        self.devices = devices
        self.most_rows = most_rows
        self.rows = {}
        self.lines = self.bytes = self.accepted = self.filtered = 0
        self.reasons = dict.fromkeys(REASONS, 0)
        # As a component it sees nothing above the folders that it is given.
        if not os.path.isdir(to):
            os.makedirs(to)
        self.outputs = [
            open(os.path.join(to, name), "wb", buffering=BLOCK)
            for name in ("enriched.ndjson", "dead.ndjson", "dead.raw", "windows.csv")
        ]
        self.enriched, self.dead, self.raw, self.csv = self.outputs

    def read(self, stream):
        while line := stream.readline(LONGEST + 2):
            self.bytes += len(line)
            self.lines += 1
            if line.endswith(b"\n"):
                line = line[:-1]
            elif len(line) > LONGEST:
                self.long(line, stream)
                continue
            try:
                event = judge(line, self.devices)
            except Dead as reason:
                self.raw.write(line)
                self.put_aside(reason.args[0], len(line))
                continue
            if event is None:
                self.filtered += 1
            else:
                self.take(*event)

    def take(self, id, source, kind, time, seconds, value, device):
        self.accepted += 1
        site, middle = device
        self.enriched.write(
            f'{{"specversion":"1.0","id":{quoted(id)},"source":{quoted(source)},"type":{quoted(kind)},'
            f'"time":{quoted(time)}{middle}{value}}}}}\n'.encode()
        )
        key = (seconds // WINDOW, site, kind)
        row = self.rows.get(key)
        if row is not None:
            row[0] += 1
            row[1] += value
            row[2] = min(row[2], value)
            row[3] = max(row[3], value)
            return
        if len(self.rows) == self.most_rows:
            raise Failure(
                1,
                "aggregate the events",
                f"their windows, sites and types make more than {self.most_rows} rows, which are held in memory",
                "allow more by --max-rows, or give less input at once",
            )
        self.rows[key] = [1, value, value, value]

    def long(self, part, stream):
        """A line longer than any that is judged: a part at a time to where the dead are."""
        length = 0
        while part:
            ends = part.endswith(b"\n")
            part = part[:-1] if ends else part
            self.raw.write(part)
            length += len(part)
            if ends:
                break
            part = stream.readline(BLOCK)
            self.bytes += len(part)
        self.put_aside("too_long", length)

    def put_aside(self, reason, length):
        self.raw.write(b"\n")
        self.reasons[reason] += 1
        self.dead.write(f'{{"line":{self.lines},"bytes":{length},"reason":"{reason}"}}\n'.encode())

    def abandon(self):
        """What isn't written yet never will be: else Python tries once more at its end, and complains."""
        for output in self.outputs:
            output.raw.close()

    def end(self):
        self.csv.write(b"window,site,type,count,sum,min,max\n")
        for (window, site, kind), (count, total, least, most) in sorted(self.rows.items()):
            fields = f"{window * WINDOW},{csv_field(site)},{csv_field(kind)},{count},{total},{least},{most}\n"
            self.csv.write(fields.encode())
        for output in self.outputs:
            output.close()
        counts = {
            "lines": self.lines,
            "bytes": self.bytes,
            "accepted": self.accepted,
            "filtered": self.filtered,
            "dead": sum(self.reasons.values()),
            "reasons": self.reasons,
            "rows": len(self.rows),
        }
        return json.dumps(counts, separators=(",", ":")) + "\n"


def usage(why):
    return Failure(2, "understand the call of event-transform", why, USAGE)


def plan(words):
    inputs, options = [], {}
    words = iter(words)
    for word in words:
        if word in ("--reference", "--to", "--max-rows"):
            options[word] = next(words, None)
            if options[word] is None:
                raise usage(f"{word} needs a value")
        elif word.startswith("--"):
            raise usage(f"there is no option {word}")
        else:
            inputs.append(word)
    for option in ("--reference", "--to"):
        if option not in options:
            raise usage(f"{option} is missing")
    rows = options.get("--max-rows", "1000000")
    if not (rows.isascii() and rows.isdigit()):
        raise usage(f"`{rows}` is no value for --max-rows")
    return inputs or ["-"], options["--reference"], options["--to"], int(rows)


def main(words):
    """Does all of it; the exit code."""
    try:
        if "--help" in words:
            text = USAGE + "\n"
        else:
            inputs, reference, to, most_rows = plan(words)
            devices = read_reference(reference)
            transform = None
            try:
                transform = Transform(devices, to, most_rows)
                for name in inputs:
                    if name == "-":
                        transform.read(sys.stdin.buffer)
                    else:
                        with open(name, "rb", buffering=BLOCK) as stream:
                            transform.read(stream)
                text = transform.end()
            except OSError as error:
                if transform is not None:
                    transform.abandon()
                hint = "see that files and folders are there and have room; what was written so far is not complete"
                raise Failure(1, "read or write", error, hint) from None
        sys.stdout.write(text)
        sys.stdout.flush()
    except Failure as failure:
        print(failure, file=sys.stderr)
        return failure.code
    return 0


if exports is not None:

    class Run(exports.Run):
        def run(self) -> None:
            if main(sys.argv[1:]):
                sys.exit(1)

elif __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
