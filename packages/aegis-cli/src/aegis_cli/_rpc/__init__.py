"""Calls of user services without their generated code, by server reflection."""
