"""The methods, each in a file of its own, and their registry."""
