"""Records as lines, tables and pictures."""
