"""What lonc and lond say to each other."""
