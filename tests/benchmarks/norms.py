"""Norms of all matrices of a model, beside a loop that copies each to float64."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from analysis.linalg import frobenius
from editors.models.model import Model
from editors.updates import Site
from tests.benchmarks.measure import Row, alternate
from tests.benchmarks.workbench import Workbench


def norms_all_matrices(bench: Workbench) -> Row:
    """24 blocks of width 512, six matrices each."""
    torch.manual_seed(0)
    config = GPT2Config(n_layer=24, n_embd=512, n_head=8)
    model = Model(GPT2LMHeadModel(config), bench.model.tokenizer, name="24-blocks")
    sites = [Site(name, layer) for layer in range(model.depth) for name in model.sites]

    def fast() -> list[float]:
        return frobenius(model.current(site) for site in sites)

    def plain() -> list[float]:
        return [float(model.current(site).double().norm()) for site in sites]

    difference = max(abs(one - other) / other for one, other in zip(fast(), plain(), strict=True))
    note = f"{len(sites)} matrices of 24 blocks, width 512; difference: largest relative one of a norm"
    return alternate("norms_all_matrices", fast=fast, plain=plain, note=note, runs=9, difference=difference)
