"""Stage-2 heads: functions that return a `Head`.

Files: trained (mlp), solved (linear, ridge), neighbours (knn), reliable (knn-reliable), prototypes
(prototype), propagation (propagate) with spreading (its methods), graph and sizes; search finds
nearest neighbours for all of them; labels and counts check arguments.
"""
