"""Submits a task, shows its output as it is written, and ends as the task did.

python submit.py localhost:5000/hello:v1 one two
"""

import sys

import vyr


def main() -> int:
    """Returns the task's exit code."""
    reference, *args = sys.argv[1:]
    with vyr.Client() as client:
        task = client.submit(vyr.TaskSpec(reference, args=args, limits=vyr.Limits(timeout=60)))
        print(f"task {task.id}", flush=True)
        for entry in client.logs(task.id, follow=True):
            stream = sys.stderr if entry.stream is vyr.LogStream.STDERR else sys.stdout
            stream.buffer.write(entry.data)
            stream.flush()
        try:
            client.wait(task.id).check()
        except vyr.TaskFailed as failed:
            print(failed, file=sys.stderr)
            return failed.exit_code
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except vyr.Error as error:
        sys.exit(f"error: {error}")
