"""Takes a run's folder to another place, has it trained there, follows it, and brings it back.

The launcher starts ``python -m trainer.away`` for a run that trains elsewhere as it starts ``python -m trainer.worker``
for one that trains here. What trains there is that same worker, started by that same launcher: ``trainer.away.there``.
"""
