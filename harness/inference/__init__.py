"""What is done with a model once it is trained: predictions, scans, annotated variants, embeddings, explanations."""
