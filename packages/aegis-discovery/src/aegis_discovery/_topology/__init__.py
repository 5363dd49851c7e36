"""The topology: merge rules, limits, store, changes and events."""
