"""The async pool, its channels and calls, on `grpc.aio`."""
