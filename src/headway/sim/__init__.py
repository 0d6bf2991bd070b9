"""What would happen: the feed-forward recursion, the event kernel, and the outcome computed from either."""
