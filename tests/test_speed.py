"""What chapter 08 changes for speed: the same results, the counts that it claims."""

import copy
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForSequenceClassification

from helpers.speed import (
    TokenBatchSampler,
    has_fast_bf16,
    put_all_tokens_back,
    read_first_token_only,
    switch_dropout_off,
    train_used_tokens_only,
    training_flops,
    use_float32_attention,
)

CONFIG = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "num_labels": 3,
}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**CONFIG))


def batch(texts=4, tokens=11, padding=5):
    mask = torch.ones(texts, tokens, dtype=torch.long)
    if padding:
        mask[1, -padding:] = 0
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(0, 99, (texts, tokens), generator=generator)
    return {"input_ids": input_ids, "attention_mask": mask, "labels": torch.arange(texts) % 3}


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("training", [False, True])
def test_reading_the_first_token_only_changes_neither_logits_nor_gradients(
    model, padding, training
):
    model.train(training)
    expected = model(**batch(padding=padding))
    expected.loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    read_first_token_only(model)
    outputs = model(**batch(padding=padding))
    outputs.loss.backward()
    torch.testing.assert_close(outputs.logits, expected.logits, rtol=0, atol=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=0, atol=1e-6, msg=name)


def test_what_is_saved_afterwards_is_an_ordinary_bert(model, tmp_path):
    names = list(model.state_dict())
    model.eval()
    expected = model(**batch()).logits
    read_first_token_only(model)
    assert list(model.state_dict()) == names
    assert not model.bert.encoder.layer[-1].training
    model.save_pretrained(tmp_path)
    loaded = BertForSequenceClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded.eval()(**batch()).logits, expected, rtol=0, atol=1e-6)


def test_the_flops_are_those_that_torch_counts(model):
    model.set_attn_implementation("eager")  # torch does not count the fast path of a CPU
    read_first_token_only(model)
    with FlopCounterMode(display=False) as counter:
        model(**batch(texts=2, tokens=13, padding=0)).loss.backward()
    assert counter.get_total_flops() == 2 * training_flops(model.config, 13)


def test_bf16_is_used_where_the_processor_has_instructions_for_it(monkeypatch):
    """Linux lists them; where there are none, torch would imitate them, slowly."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        pytest.skip("no /proc/cpuinfo")
    flags = set(cpuinfo.read_text().split())
    assert has_fast_bf16(torch.device("cpu")) == bool({"avx512_bf16", "amx_bf16"} & flags)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True})
    assert not has_fast_bf16(torch.device("cpu"))


def test_attention_is_computed_in_float32_within_autocast(model, monkeypatch):
    attend = torch.nn.functional.scaled_dot_product_attention
    kinds = []

    def watch(query, *args, **kwargs):
        kinds.append(query.dtype)
        return attend(query, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watch)
    expected = model(**batch()).logits
    with torch.autocast("cpu", torch.bfloat16):
        model(**batch())
    use_float32_attention(model)
    assert torch.equal(model(**batch()).logits, expected)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(**batch()).logits
    layers = model.config.num_hidden_layers
    assert kinds[layers : 2 * layers] == [torch.bfloat16] * layers
    assert kinds[2 * layers :] == [torch.float32] * 2 * layers
    torch.testing.assert_close(rounded.float(), expected, rtol=0, atol=0.02)


def test_autocast_keeps_weights_gradients_and_loss_in_float32(model):
    expected = model(**batch()).loss
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**batch()).loss
    loss.backward()
    assert loss.dtype == torch.float32
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}
    assert loss.item() == pytest.approx(expected.item(), rel=0.01)
    assert loss.item() != expected.item()


def test_without_dropout_training_computes_what_evaluation_does():
    config = BertConfig(**CONFIG | {"hidden_dropout_prob": 0.5})
    model = BertForSequenceClassification(config)
    expected = model.eval()(**batch()).logits
    assert not torch.equal(model.train()(**batch()).logits, expected)
    switch_dropout_off(model)
    assert torch.equal(model(**batch()).logits, expected)


def train_some_steps(model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    for _ in range(3):
        model(**batch()).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def test_training_the_used_tokens_only_gives_the_same_weights(model, tmp_path):
    other = copy.deepcopy(model)
    train_some_steps(model)
    whole = train_used_tokens_only(other, batch()["input_ids"])
    used = other.get_input_embeddings().weight
    assert len(used) == len({0, *batch()["input_ids"].flatten().tolist()}) < len(whole.weight)
    train_some_steps(other)
    put_all_tokens_back(other, whole)
    assert other.get_input_embeddings() is whole
    weights = dict(other.named_parameters())
    for name, expected in model.named_parameters():
        if "key.bias" not in name:  # its gradient is 0 but for rounding, which AdamW blows up
            torch.testing.assert_close(weights[name], expected, rtol=0, atol=1e-6, msg=name)
    other.save_pretrained(tmp_path)
    loaded = BertForSequenceClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded.state_dict(), other.state_dict(), rtol=0, atol=0)


def test_a_token_that_is_not_used_is_refused_and_padding_is_not(model):
    train_used_tokens_only(model, [torch.tensor([7, 5]), torch.tensor([7])])
    model(torch.tensor([[7, 5], [7, 0]]))
    with pytest.raises(IndexError):
        model(torch.tensor([[7, 6]]))


def lengths(rows, seed=0):
    return torch.randint(3, 60, (rows,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize(("rows", "max_tokens"), [(500, 256), (7, 60), (1, 60), (50, 10)])
def test_token_batches_hold_every_row_once_and_no_more_tokens_than_asked(rows, max_tokens):
    size = lengths(rows)
    sampler = TokenBatchSampler(size, max_tokens, torch.Generator().manual_seed(0))
    batches = list(sampler)
    assert len(sampler) == len(batches)
    assert sorted(row for chosen in batches for row in chosen) == list(range(rows))
    for chosen in batches:
        tokens = len(chosen) * max(size[row] for row in chosen)
        assert tokens <= max_tokens or len(chosen) == 1


def test_token_batches_differ_between_epochs_and_come_again_with_the_seed():
    def epochs(seed):
        sampler = TokenBatchSampler(lengths(300), 256, torch.Generator().manual_seed(seed))
        return [list(sampler), list(sampler)]

    first, second = epochs(0)
    assert first != second
    assert {frozenset(chosen) for chosen in first} != {frozenset(chosen) for chosen in second}
    assert epochs(0) == [first, second]
    assert epochs(1)[0] != first
