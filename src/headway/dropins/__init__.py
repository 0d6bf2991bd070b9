"""Headway's policies inside other systems: classes that those load by their qualified name.

Each file says what it plugs into, and which versions it was written for. It imports that system and `headway.policy`,
nothing else: what runs in someone else's process brings along as little as it can.
"""
