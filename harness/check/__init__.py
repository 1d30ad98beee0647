"""The contract that every adapter keeps, and a template that keeps it."""
