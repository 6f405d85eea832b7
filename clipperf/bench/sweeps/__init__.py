"""Sweeps: what a plan asks for, one comparison group after the other, whatever interrupts them."""
