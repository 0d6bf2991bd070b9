"""CascadeServe's evaluation, rebuilt: gear plans and what they are compared with, on measured models."""
