"""How runs lie on the disk: the SQLite database with its migrations, each run's folder, and who may read them.

Called by ``trainer.runs`` alone, but for errors, folder names and the order of rows. Starts no process.
"""
