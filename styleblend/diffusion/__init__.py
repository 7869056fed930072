"""Noise schedule, samplers, attention controls, and the one loop that draws."""
