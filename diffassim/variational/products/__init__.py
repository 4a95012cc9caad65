"""What a cost and its solution tell beyond the analysis: posterior, sensitivity and influence."""
