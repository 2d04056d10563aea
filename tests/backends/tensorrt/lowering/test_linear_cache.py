"""A decoder with a linear cache: token by token on the lowered graph it says what eager says without a cache."""

from __future__ import annotations

import os
from functools import cache

import numpy as np
import onnx_ir as ir
import pytest
import torch

from ingot.backends.tensorrt.lowering.lower import for_parser, lower
from ingot.backends.tensorrt.proof import OrtSession, ort_session
from ingot.frontend.export import Exported, export
from ingot.frontend.source import Source
from ingot.models import cached_llama
from ingot.models.llama import Llama
from ingot.passes.contract import run_passes
from ingot.pipeline import passes

TOKENS, LAYERS = 32, 2

SEED = int(os.environ["INGOT_SEED"]) % 1000


@cache
def exported(dtype: torch.dtype = torch.float32) -> tuple[Exported, Llama]:
    """The model as the frontend and the passes give it, and one of the same weights without a cache."""
    example = cached_llama.build(SEED, tokens=TOKENS, layers=LAYERS, dtype=dtype)
    found = export(Source("model", example.module, (), dict(example.kwargs), dynamic_shapes=example.dynamic_shapes))
    run_passes(found.model, passes())
    plain = Llama(101, 64, 4, 2, 88, LAYERS)
    plain.load_state_dict(example.module.state_dict())
    return found, plain.eval()


def greedy(session: OrtSession, prompt: list[int], count: int) -> list[int]:
    """`count` tokens behind the prompt: it is read in two steps, then the tokens one by one."""
    caches = [np.zeros((1, 2, TOKENS, 16), np.float32) for _ in range(2 * LAYERS)]
    start, said = 0, list(prompt)
    steps = [prompt[:4], prompt[4:]]
    for _ in range(count):
        for tokens in steps:
            logits, *caches = session.run([np.array([tokens]), np.array([start]), *caches])
            start += len(tokens)
        said.append(int(logits[0, -1].argmax()))
        steps = [said[-1:]]
    return said[len(prompt) :]


@torch.no_grad()
def greedy_without_cache(model: Llama, prompt: list[int], count: int) -> list[int]:
    said = list(prompt)
    for _ in range(count):
        said.append(int(model(torch.tensor([said]))[0, -1].argmax()))
    return said[len(prompt) :]


def test_decoding_by_the_cache_is_eager_without_one(seed: int) -> None:
    found, plain = exported()
    session = ort_session(lower(found.model), found.signature)
    generator = np.random.default_rng(seed)
    for length in (5, 9):
        prompt = [int(token) for token in generator.integers(0, 101, length)]
        count = TOKENS - length
        assert greedy(session, prompt, count) == greedy_without_cache(plain, prompt, count)


def test_the_places_behind_the_last_token_do_not_matter(seed: int) -> None:
    """What an earlier sequence left in the cache is not looked at."""
    found, _ = exported()
    session = ort_session(lower(found.model), found.signature)
    generator = np.random.default_rng(seed)
    tokens = generator.integers(0, 101, (1, 3))
    caches = [generator.standard_normal((1, 2, TOKENS, 16)).astype(np.float32) for _ in range(2 * LAYERS)]
    other = [np.where(np.arange(TOKENS)[:, None] < 6, cache, 7.0).astype(np.float32) for cache in caches]
    results = [session.run([tokens, np.array([6]), *given])[0] for given in (caches, other)]
    assert np.array_equal(*results)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_tensorrt_updates_the_caches_in_place(dtype: torch.dtype) -> None:
    """A layer of its own for each cache, which is an input of the network and whose update is an output."""
    trt = pytest.importorskip("tensorrt_rtx", reason="parses with TensorRT for RTX")
    found, _ = exported(dtype)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    lowered = for_parser(lower(found.model))
    assert not lowered.functions
    assert parser.parse(ir.to_proto(lowered).SerializeToString()), parser.get_error(0).desc()
    inputs = [network.get_input(index).name for index in range(network.num_inputs)]
    outputs = [network.get_output(index).name for index in range(network.num_outputs)]
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    updates = [layer for layer in layers if layer.type == trt.LayerType.KV_CACHE_UPDATE]
    assert len(updates) == 2 * LAYERS
    assert {layer.get_input(0).name for layer in updates} == set(inputs[2:])
    assert {layer.get_output(0).name for layer in updates} == set(outputs[1:])
    assert trt.LayerType.SCATTER not in [layer.type for layer in layers]
