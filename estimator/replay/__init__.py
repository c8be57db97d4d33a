"""A tape replayed for one plan: allocator, reservation, optimizer, sharding, overhead.

The estimate and pricing call it; it is pure: no files, no clock, no torch.
"""
