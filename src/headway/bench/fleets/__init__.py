"""Benchmarks of fleets: how fast they are simulated, what load policies carry, and published figures again."""
