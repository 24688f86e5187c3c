"""Other libraries: each module imports its own when a function needs it, never before."""
