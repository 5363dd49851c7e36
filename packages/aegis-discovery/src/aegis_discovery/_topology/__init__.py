"""The topology: merge rules, store, changes and events."""
