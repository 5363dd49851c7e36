"""The mesh as a client sees it, for asyncio."""
