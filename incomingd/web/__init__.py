"""What every listener needs from HTTP and from Tornado, and nothing of uploads."""
