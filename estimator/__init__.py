"""GPU memory of fine-tuning.

Command lines, pages and the advisor's callers use ``pricing``. Only the tracer imports torch, and nothing here imports
streamlit, the advisor or a store.

Its parts, each of which imports only those to its right: accuracy, pricing, estimate, replay, tape.
"""

import specs as specs  # the first import: from here on, Ctrl-C is quiet
