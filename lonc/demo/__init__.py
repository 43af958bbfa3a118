"""To try lonc on: the tour, a small lond, its store, its certificates."""
