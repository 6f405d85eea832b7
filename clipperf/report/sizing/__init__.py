"""How many machines a target load needs."""
