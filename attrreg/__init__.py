"""Train neural networks with attribution maps, and find out honestly whether it helps."""
