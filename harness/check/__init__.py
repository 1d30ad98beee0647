"""The contract that every adapter keeps, and a template to start a new one from."""
