"""Drives Python's oras: push TARGET FILE CONFIG | pull TARGET FOLDER | attach TARGET DIGEST SIZE TYPE."""

import os
import sys

import oras.client
import oras.oci

verb, target, *rest = sys.argv[1:]
# The file that its login writes; `docker login` has the same.
config = os.path.join(os.environ["DOCKER_CONFIG"], "config.json")
config = config if os.path.exists(config) else None
client = oras.client.OrasClient(insecure=True, auth_backend="basic" if config else "token")
if verb == "push":
    file, manifest_config = rest
    done = client.push(target=target, files=[file], manifest_config=manifest_config or None, config_path=config)
    print(done.status_code)
elif verb == "pull":
    print(client.pull(target=target, outdir=rest[0], config_path=config))
elif verb == "attach":
    digest, size, media_type = rest
    subject = oras.oci.Subject(mediaType=media_type, digest=digest, size=int(size))
    done = client.push(target=target, files=["note.txt:text/plain"], subject=subject, config_path=config)
    print(done.status_code)
else:
    sys.exit(f"unknown verb {verb}")
