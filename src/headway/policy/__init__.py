"""How a decision is made: pure functions `(state, now) -> decision`, called by simulator and live server."""
