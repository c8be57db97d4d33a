"""Real fine-tuning runs, from a file of data to an adapter and what follows from it.

Doors and pages call it; it imports neither advice nor estimates nor pages.

Rooms, each importing only those to its right: worker, results, model, runs, data.
"""
