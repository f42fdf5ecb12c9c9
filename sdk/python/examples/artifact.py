"""Puts a Wasm file into a node's store as an artifact, with no registry at hand, and shows what the node says of it.

    python artifact.py hello.wasm registry.example/hello:v1

It is not signed, so the node's trust policy refuses to run it unless it says otherwise; `vyr push` signs.
"""

import hashlib
import json
import sys
from pathlib import Path

import vyr


def digest(data: bytes) -> str:
    """The name of content."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def main() -> None:
    """Prints the artifact as JSON."""
    wasm, tag = Path(sys.argv[1]), sys.argv[2]
    code, config = wasm.read_bytes(), b"{}"
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "artifactType": "application/vnd.unknown.artifact.v1",
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest(config), "size": len(config)},
            "layers": [{"mediaType": "application/wasm", "digest": digest(code), "size": len(code)}],
        }
    ).encode()
    with vyr.Client() as client:
        put = client.put_artifact(digest(manifest), manifest, {digest(config): config, digest(code): wasm}, tag=tag)
        print(json.dumps(client.get_artifact(put.digest).to_dict(), indent=2))


if __name__ == "__main__":
    main()
