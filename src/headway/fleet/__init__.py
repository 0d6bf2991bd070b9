"""Fleets: a balancer in front of servers, and a scheduler inside each; simulated with the policies that serve.

A server of `cores` runs requests on workers and preempts them by quantum (`headway.fleet.rack_run`); one of kind `llm`
batches continuously over the memory of its KV cache.
"""
