"""Makes `src/vyr/_proto` from the interface's files, where these are: in the repository.

An sdist carries what was made, so a wheel is built from it without the repository and without grpcio-tools.
"""

import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# Decides which versions of protobuf can load what is made: its own and later ones, up to the next major version. The lower
# bound in pyproject.toml is the version of protobuf that this one has in it.
GRPCIO_TOOLS = "grpcio-tools==1.76.0"

PACKAGE = "vyr/control/v0"


class StubsHook(BuildHookInterface):  # type: ignore[type-arg]
    """Runs before each build of a wheel or an sdist."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        return [GRPCIO_TOOLS] if self._source() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        made = Path(self.root) / "src/vyr/_proto"
        source = self._source()
        if source:
            make(source, made)
        elif not (made / "task_pb2.py").exists():
            raise FileNotFoundError(f"{made} isn't there, and neither is the repository's proto/ that it is made from")

    def _source(self) -> Path | None:
        """The folder that `vyr/control/v0/*.proto` is in; none in an unpacked sdist."""
        root = Path(self.root)
        source = root.parent.parent / "proto"
        return source if (source / PACKAGE).is_dir() and not (root / "PKG-INFO").exists() else None


def make(source: Path, to: Path) -> None:
    """Makes the modules of messages with their types from `source` into the folder `to`.

    The service's stubs are not made: the package has its methods in a table, which has types.
    """
    from importlib.resources import files

    from grpc_tools import protoc

    protos = sorted(str(path.relative_to(source)) for path in (source / PACKAGE).glob("*.proto"))
    with tempfile.TemporaryDirectory(dir=to.parent) as folder:
        well_known = files("grpc_tools") / "_proto"
        arguments = [f"-I{source}", f"-I{well_known}", f"--python_out={folder}", f"--pyi_out={folder}", *protos]
        if protoc.main(["protoc", *arguments]) != 0:
            raise RuntimeError(f"protoc could not compile {source / PACKAGE}")
        ready = Path(folder) / "_proto"
        ready.mkdir()
        (ready / "__init__.py").write_text('"""Control API v0, made from proto/vyr/control/v0 by protoc."""\n')
        for path in sorted((Path(folder) / PACKAGE).iterdir()):
            (ready / path.name).write_text(relocated(path.read_text()))
        shutil.rmtree(to, ignore_errors=True)
        ready.rename(to)


def relocated(code: str) -> str:
    """Protoc imports by the files' own paths, and knows no other; the files' names in the descriptors stay as they are."""
    code = re.sub(r"^from vyr\.control\.v0 import", "from vyr._proto import", code, flags=re.MULTILINE)
    if re.search(r"^(from|import) vyr\.control", code, flags=re.MULTILINE):
        raise RuntimeError("an import of protoc's has a form that isn't known here")
    return code


if __name__ == "__main__":
    # For working on the package in place: `python hatch_build.py`.
    here = Path(__file__).parent
    make(here.parent.parent / "proto", here / "src/vyr/_proto")
    sys.stdout.write(f"made {here / 'src/vyr/_proto'}\n")
