"""A base model: networks, weights, tokens."""
