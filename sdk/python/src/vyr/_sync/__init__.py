"""The client without asyncio. Made from `vyr._async` by make_sync.py, but for `loop`."""
