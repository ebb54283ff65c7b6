"""Hugging Face modules behind two small faces: logits of chosen tokens, scalars of chosen tokens."""
