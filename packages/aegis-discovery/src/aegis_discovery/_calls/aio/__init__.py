"""The asyncio face of calls: pool, channel and call on `grpc.aio`."""
