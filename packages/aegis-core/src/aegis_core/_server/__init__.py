"""The server: interceptor, admission, threads, drain and the mesh services."""
