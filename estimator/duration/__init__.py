"""How long a step takes: what is computed, what each device makes of it, and what a whole run adds up to."""
