"""The server of the blocking node, on `grpc.server`."""
