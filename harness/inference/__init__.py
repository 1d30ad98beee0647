"""Inference: what is done with a model once it is trained. Predictions, scans, embeddings, explanations, annotated variants."""
