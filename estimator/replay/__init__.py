"""A tape at one plan: allocator, reservation, optimizer, sharding, overhead.

The estimate and pricing call it; it is pure, without files, clock or torch.
"""
