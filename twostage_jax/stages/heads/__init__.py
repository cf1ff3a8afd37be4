"""Stage-2 heads: functions that return a `Head`.

Files: trained (mlp), solved (linear, ridge), neighbours (knn).
"""
