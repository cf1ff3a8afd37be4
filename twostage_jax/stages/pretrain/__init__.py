"""Stage-1 objectives: functions that return a `Stage` and read no label.

Files: reconstruction, placeholder.
"""
