"""The zoo: which models there are, where their weights come from, and towers built from them."""
