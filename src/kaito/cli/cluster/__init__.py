"""Commands that look at a cluster, or change it, for the person who runs models: as ``kaito …`` and ``kubectl kaito …``.

``connect`` reaches the cluster and says in one line why it cannot; ``seen`` reads what belongs to a Workspace, ``picture``
makes a tree of it, ``render`` prints that. The others are a command each.
"""
