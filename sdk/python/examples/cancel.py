"""Watches a task, and cancels it as soon as it runs.

python cancel.py localhost:5000/sleep:v1
"""

import sys

import vyr


def main() -> None:
    """Prints each change."""
    with vyr.Client() as client:
        task = client.submit(sys.argv[1])
        for change in client.watch(task.id):
            print(f"{change.id} is {change.status}")
            if change.status is vyr.TaskStatus.RUNNING:
                client.cancel(task.id)
        # As `vyr wait` would end.
        print(f"exit code {client.get_task(task.id).exit_code}")


if __name__ == "__main__":
    main()
