"""Known datasets: one file per dataset or family."""
