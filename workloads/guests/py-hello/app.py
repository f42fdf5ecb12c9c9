"""Says hello and repeats its arguments, as hello.rs does, from Python: a wasi:cli/command component."""

import sys

from wit_world import exports


class Run(exports.Run):
    def run(self) -> None:
        print("hello from python")
        for argument in sys.argv[1:]:
            print(argument)
