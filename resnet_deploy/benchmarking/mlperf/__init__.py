"""MLPerf's scenarios by its own LoadGen."""
