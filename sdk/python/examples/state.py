"""Lets two tasks use one state, one after the other.

python state.py localhost:5000/state:v1
"""

import sys
import uuid

import vyr


def main() -> None:
    """Writes with one task and reads with another."""
    reference, name = sys.argv[1], f"example-{uuid.uuid4()}"
    with vyr.Client() as client:
        client.create_state(name, vyr.StateClass.NODE, quota_bytes=1 << 20, time_to_live=3600)
        try:
            bound = [vyr.StateBinding(name, alias="notes")]
            write = vyr.TaskSpec(reference, args=["text:/state/notes/note.txt:kept"], states=bound)
            client.run(write).check()
            read = vyr.TaskSpec(reference, args=["read:/state/notes/note.txt"], states=bound)
            print(client.run(read).check().stdout.decode(), end="")
            print(f"{client.get_state(name).used_bytes} bytes are used")
        finally:
            client.delete_state(name)


if __name__ == "__main__":
    main()
