"""Each author's sampling and training loop, said again in plain eager PyTorch: their shapes, masks, caches and order of work, with the
weights of one of our models, so that both make the same tokens. Nothing of theirs is copied; ``argenzoo bench --peer`` times the real ones.

Each has ``tokens(model, condition, rng, options)``, as ``ARModel.sample_tokens``, and ``loss(model, tokens, labels, rng)``.
"""
