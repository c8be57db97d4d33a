"""GPU memory of fine-tuning.

Doors, pages and the advisor's callers use ``pricing``; only the tracer imports torch, and nothing here imports
streamlit, the advisor or a store.

Rooms, each importing only those to its right: accuracy, pricing, estimate, replay, tape.
"""
