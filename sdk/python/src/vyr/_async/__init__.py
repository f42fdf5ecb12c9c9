"""The client for asyncio. `vyr._sync` is made from this package by make_sync.py, but for `loop`."""
