"""Compares our editors with recorded outputs of the published implementations.

    python -m tests.parity FOLDER... [--method rome]

A folder holds `model/` (a Hugging Face checkpoint), `inputs/` (requests, context templates, second
moments) and one `<method>/<case>.json` + `.safetensors` for each recorded case, with the published names
of all hyperparameters. Any model, tokenizer and architecture in this layout is compared alike.
"""
