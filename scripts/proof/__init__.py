"""Advised plans against the fixed recipes of others, at equal time on small real data: ``python -m scripts.proof``."""
