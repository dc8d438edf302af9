"""rarefy makes neural networks sparse and makes the sparsity pay."""
