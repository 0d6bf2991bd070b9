"""Cascades of models: devices that hold several, one queue for each model, and a gear for every range of load."""
