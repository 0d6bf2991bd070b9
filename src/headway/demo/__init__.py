"""The demo: a pipeline of three real models that reads document pages, and the pages to read."""
