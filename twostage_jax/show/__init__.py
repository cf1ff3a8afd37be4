"""Lines, tables and pictures of a run.

Files: terminal, epochs, start, result, uncertainty, tables, plots. Folder: report.
"""
