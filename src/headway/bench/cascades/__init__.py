"""Benchmarks of cascades: by features, by models, of top-K queries and of look-ups."""
