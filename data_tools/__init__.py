"""Record the features of a network while it trains, and read recordings."""
