"""How a decision is made: pure functions `(state, now) -> decision`, called by the simulator and the live server alike."""
