"""Keep it right: the loop that lets a tuner act, simulated and live, its journal, and plans prepared for more load."""
