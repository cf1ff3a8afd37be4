"""Lines, tables and pictures of a run.

Files: terminal, tables, plots.
"""
