"""The runner of the test environments; `envs/run` is its command."""
