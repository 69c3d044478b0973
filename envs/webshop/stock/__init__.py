"""Where a shop's products come from: imported files, or generated ones."""
