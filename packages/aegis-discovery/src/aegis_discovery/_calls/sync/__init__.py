"""The blocking face of calls: pool, channel and call on `grpc`."""
