"""The server of the asyncio node, on `grpc.aio`."""
