"""The tuner: trains an adapter (LoRA, QLoRA) for a causal language model, and pushes it as an image.

``config`` reads what to do, ``data`` what to learn from, ``examples`` turns that into tokens, ``train`` learns, ``progress``
tells how far it is, ``outcome`` is what is left on disk, ``download`` brings datasets. Only ``train`` needs torch.
"""
