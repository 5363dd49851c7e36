"""The sync pool, its channels and calls, on `grpc`."""
