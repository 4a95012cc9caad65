"""The closed loop: rows come in, a model is trained, compared, promoted or not, and its innovations are fed back."""
