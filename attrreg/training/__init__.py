"""Training: a shard of runs, the loop of one run, and the weights it leaves behind."""
