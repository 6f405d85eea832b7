"""Whether a tower may be kept: how far it moved, what it loses, which layers must stay."""
