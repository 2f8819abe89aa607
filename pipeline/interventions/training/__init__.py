"""Interventions that train: continual pretraining, full fine-tuning, LoRA."""
