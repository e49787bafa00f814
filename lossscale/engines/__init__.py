"""What advances cohorts from checkpoint to checkpoint, and what is measured on them there."""
