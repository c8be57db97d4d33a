"""Real fine-tuning runs, from a file of data to an adapter and what follows from it.

Command lines and pages call it; it imports no advice, no estimates and no pages.

Subpackages, each importing only those to its right: commands, worker, results, model, runs, data.
"""

import specs as specs  # the first import: from here on, Ctrl-C is quiet
