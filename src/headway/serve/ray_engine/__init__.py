"""The engine on Ray Serve: our front, queues and batches; Ray's replicas, one deployment per stage."""
